"""No name in protos/ is a word that a language keeps for itself.

Generators cope with most of such names, by an escape that every caller then has to know of:
`import_` in Java, `r#match` in Rust, `Checkpoint_` in C#.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator

import contex.v1
import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FileDescriptor

# What can be no name anywhere. Soft keywords that are good names are left out: `match` and `type`
# of Python, `record` and `module` of Java, `union` of Rust, `type` and `of` of TypeScript.
RESERVED = {
    "Python": """
        False None True and as assert async await break class continue def del elif else except
        finally for from global if import in is lambda nonlocal not or pass raise return try while
        with yield""",
    "Go": """
        break case chan const continue default defer else fallthrough for func go goto if import
        interface map package range return select struct switch type var""",
    "Java": """
        abstract assert boolean break byte case catch char class const continue default do double
        else enum extends false final finally float for goto if implements import instanceof int
        interface long native new null package private protected public return short static
        strictfp super switch synchronized this throw throws transient true try void volatile
        while""",
    "Rust": """
        Self abstract as async await become box break const continue crate do dyn else enum extern
        false final fn for gen if impl in let loop macro match mod move mut override priv pub ref
        return self static struct super trait true try type typeof unsafe unsized use virtual where
        while yield""",
    "TypeScript": """
        any arguments await boolean break case catch class const constructor continue debugger
        default delete do else enum eval export extends false finally for function if implements
        import in instanceof interface let new null number package private protected public return
        static string super switch symbol this throw true try typeof undefined var void while with
        yield""",
    "C#": "",  # Its words are in lower case, what is generated for it in PascalCase; see MEMBERS.
}

# Members that generated classes have anyway, in PascalCase: a field of such a name gets another.
MEMBERS = {
    "Go": "Descriptor ExtensionMap Marshal ProtoMessage ProtoReflect Reset String Unmarshal",
    "Java": """
        AllFields CachedSize Class DefaultInstanceForType DescriptorForType
        InitializationErrorString ParserForType SerializedSize UnknownFields""",
    "TypeScript": "Constructor ToJson ToString ValueOf",
    "C#": """
        CalculateSize Clone Descriptor Equals Finalize GetHashCode GetType MemberwiseClone MergeFrom
        OnConstruction Parser ReferenceEquals ToString Types WriteTo""",
}

# Classes that whoever writes a client imports beside ours, and what every file has by itself.
IMPORTED = {
    "Java": """
        Attributes CallCredentials CallOptions Channel ChannelCredentials ClientCall
        ClientInterceptor ClientInterceptors Codec Compressor Context Contexts Deadline
        Decompressor DecompressorRegistry Drainable EquivalentAddressGroup Grpc KnownLength
        LoadBalancer ManagedChannel ManagedChannelBuilder Metadata MethodDescriptor NameResolver
        ProxyDetector Server ServerBuilder ServerCall ServerInterceptor ServiceDescriptor Status
        StatusException StatusRuntimeException ByteString Message Timestamp Boolean Byte Character
        Class Deprecated Double Enum Error Exception Float Integer Iterable Long Math Number Object
        Override Process Record Runtime Short String System Thread Throwable Void""",
    "Rust": """
        Box Clone Copy Default Drop Eq Err Fn From Into Iterator None Ok Option Ord Request Response
        Result Send Some Status Streaming String Sync Vec""",
    "TypeScript": """
        Array ArrayBuffer BigInt Boolean Client Date Error Function JSON Map Message Number Object
        Promise Proxy Reflect Set String Symbol Timestamp Transport Uint8Array""",
    "C#": """
        Attribute Boolean Byte Channel ChannelBase Convert DateTime Enum Exception Func Guid
        Metadata Object Status String Task Timestamp Type Version""",
    "Python": "",
    "Go": "",
}

# Left as they are: what the generators make of them is known, and no other name says it.
KNOWN = {
    ("Rust", "rpc MatchService.Match"),  # client.r#match(request)
}


def files() -> Iterator[FileDescriptor]:
    for module in pkgutil.iter_modules(contex.v1.__path__):
        if module.name.endswith("_pb2"):
            yield importlib.import_module(f"contex.v1.{module.name}").DESCRIPTOR


def names() -> Iterator[tuple[str, str, str]]:
    """Kind, owner and name of everything in protos/."""
    for file in files():
        for service in file.services_by_name.values():
            yield from (("rpc", service.name, method.name) for method in service.methods)
        for message in file.message_types_by_name.values():
            yield from _of_message(message)
        for enum in file.enum_types_by_name.values():
            yield from _of_enum(enum)


def _of_message(message: Descriptor) -> Iterator[tuple[str, str, str]]:
    yield "message", message.file.package, message.name
    yield from (("field", message.name, field.name) for field in message.fields)
    yield from (("oneof", message.name, oneof.name) for oneof in message.oneofs)
    for nested in message.nested_types:
        yield from _of_message(nested)
    for enum in message.enum_types:
        yield from _of_enum(enum)


def _of_enum(enum: EnumDescriptor) -> Iterator[tuple[str, str, str]]:
    yield "enum", enum.file.package, enum.name
    prefix = f"{_snake(enum.name).upper()}_"
    for value in enum.values:
        yield "value", enum.name, value.name
        # Rust and C# leave the enum's name out.
        yield "value", enum.name, _pascal(value.name.removeprefix(prefix).lower())


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _pascal(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


@pytest.mark.parametrize("language", RESERVED)
def test_no_name_fights_a_language(language: str) -> None:
    reserved = set(RESERVED[language].split())
    members = set(MEMBERS.get(language, "").split())
    imported = set(IMPORTED[language].split())
    found = set()
    for kind, owner, name in names():
        taken = name in reserved
        if kind in ("rpc", "field", "oneof"):
            taken |= _snake(name) in reserved or _pascal(name) in members
        if kind in ("message", "enum"):
            taken |= name in imported
        if language == "C#" and kind == "field":
            taken |= _pascal(name) == owner
        if taken:
            found.add((language, f"{kind} {owner}.{name}"))
    assert found == {known for known in KNOWN if known[0] == language}


def test_the_walk_sees_what_is_there() -> None:
    seen = set(names())
    assert {
        ("rpc", "TransferService", "ImportProject"),
        ("message", "contex.v1", "PromptContext"),
        ("field", "PromptContext", "omitted"),
        ("oneof", "SubscribeRequest", "start"),
        ("value", "KeyState", "KEY_STATE_ABSENT"),
        ("value", "KeyState", "Absent"),
    } <= seen


@pytest.mark.parametrize("option", ["go_package", "java_package", "csharp_namespace"])
def test_every_file_names_its_package_in_each_language(option: str) -> None:
    for file in files():
        assert file.GetOptions().HasField(option), file.name
        assert file.GetOptions().java_multiple_files, file.name
