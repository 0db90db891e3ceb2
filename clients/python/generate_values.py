"""Generates the dataclasses and enumerations of the client from the messages of protos/.

Each gets the comments of its message as docstring, and a function that converts a message to it.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorSet

PACKAGE = Path(__file__).parent / "contex"
PROTOS = PACKAGE.parents[2] / "protos"

VALUES = {
    "events": """
        Durability(IntEnum)
        ContextFormat(StrEnum)
        KeyState(StrEnum)
        Erasure=Erased
        Event -text_digest -sealed opaque= erased? valid_until?
        EventFilter event_types=
        MatchKind(Enum) OTHER
        Match need_index need score parts.cosine parts.threshold parts.model path= passage
            parts.background_mean parts.background_deviation parts.standing parts.lexical
            parts.background_passages parts.background_sequence parts.scorer parts.share
            parts.usual_cosine parts.coverage parts.expected_coverage need_id=
        MatchedEvent payload_omitted= +backfilled kind?
        OmittedDatum
        Context=PromptContext format? omitted=
        Moment
    """,
    "agents": """
        Need text= filter? id~
        MinDelta payload_changed=
        DecidingState(Enum) OTHER
        AgentProgress
        WaitUntil(Enum)
        Agent min_delta?= muted_kinds= exclude_own= ttl?= last_contact_time?= progress?=
        RegistrationOutcome(Enum) OTHER
        Registration=RegisterAgentResponse context?= omitted_count= outcome?
        NeedsChanged! omitted_count=
        Resync
        DeliveredNeed
        StaleReason(Enum) OTHER
        KnownDatum event?= stale_reason? pending_kind?
        HeldBackReason(Enum) OTHER
        HeldBack
        AgentStream closed_time?
        WithheldDatum
        AgentContext=GetAgentContextResponse last_sent_time?=
        DeliveryKind(Enum) OTHER
        Delivery stream_id= change?
        Missed
        Blocked
        Consumer
        BlockedKey
        ConsumerGroup=GetConsumerGroupResponse
        ParkCause(Enum) OTHER
        ParkedDelivery
        SeekResult=SeekConsumerGroupResponse
    """,
    "match": """
        MatchAnswer=MatchResponse context?= +questions
        Contribution needed=
        TermHit
        PassageScore
        Explanation=ExplainResponse contributions=
        BacktestProgress
        NeedSummary events_at_threshold= -threshold
        BacktestSummary needs=
        Feedback=ExportFeedbackResponse comment=
        MatchingStatus=GetMatchingStatusResponse
    """,
    "state": """
        Datum event?=
        PatchOmitted(Enum) OTHER
        Patch json_patch= omitted?
        ChangeKind(Enum)
        Change before? after? patch?=
        StateDiff=DiffStatesResponse changes base target
            added:added_count removed:removed_count changed:changed_count
        State=GetStateResponse data as_of
        Revision patch?=
        BlamedPart
        Blame=GetBlameResponse truncated=
    """,
    "audit": """
        AuditAction(Enum) OTHER
        AuditFormat(Enum)
        AuditRecord actor=
        AuditPiece=ExportRecordsResponse
    """,
    "projects": """
        ProjectSummary
        Stats=GetStatsResponse
        ActivityDimension(Enum)
        ActivitySeries
        Activity=GetActivityResponse
        Retention store_seconds=
        RetentionInfo=GetRetentionResponse own:retention effective has_archive
        Deletion
        Encryption
        ProjectInfo=GetProjectResponse stats? deletion? encryption?=
        DeletedProject=DeleteProjectResponse
        RemovedEvents=RemoveEventsResponse
        ErasedData=EraseDataResponse
        FindingKind(Enum) OTHER
        Finding
        VerifySummary
        VerifyStep=VerifyProjectResponse finding? summary?
    """,
    "transfer": """
        ExportFormat(Enum)
        ExportPart(Enum)
        ImportMode(Enum)
        RedactionAction(Enum)
        Redaction! json_pointer action= data_keys replacement
        ExportSummary
        ExportPiece=ExportProjectResponse resume_token= summary?
        ImportProgress=ImportProjectResponse byte_count event_count
        ImportReport
    """,
    "access": """
        Permission(Enum) OTHER
        Credential(Enum) OTHER
        Grant data_keys=
        Binding update_time?
        ApiKey expire_time? revoke_time? last_use_time?
        NewKey=CreateKeyResponse secret_key#
        RotatedKey=RotateKeyResponse secret_key#
        Role description=
        UsageLimits events_per_second=
        Tenant projects= limits? project_limits?
        WhoAmI=WhoAmIResponse credential? expire_time?
        GrantDecision
        Decision=CheckAccessResponse
        Usage
        UsageReport=GetUsageResponse
    """,
    "server": """
        Feature(Enum) OTHER
        ServerLimits
        ServerInfo=GetServerInfoResponse
    """,
}
"""The values of each module of the client.

    Name=Message     a dataclass; the message may have the same name
    Name!            a dataclass that no message is converted to
    Name(Base)       an enumeration; with OTHER for members that a newer server has added
    -field           is left out
    field=           has a default, and so have the fields after it
    field?           is None if it is not set; so is what is `optional` or in a oneof
    field~           makes no difference where values are compared
    field#           is a secret, and not in the repr
    name:field       has another name than in the message
    part.field       is a field of the message in `part`
    +field           is not in the message; see `ADDED`

If there are fields without a mark, the class has these only, in this order."""

ADDED = {
    "backfilled": (
        "Always False; earlier versions set it for what a change of the needs brought.",
        "bool = False",
    ),
    "questions": ("The questions, in their order.", "tuple[str, ...] = ()"),
}
"""What is said of fields that are not in the messages, and their types; converters take them."""

TEXTS = {
    r"^A page of data\.": (
        "A project's data at a moment: iterate over its `Datum`s, or look up one by its key."
    ),
    r"^A page of changes\.": "What differs between two moments.",
    r"\bSet(Role|Tenant|Binding) made": lambda match: f"`set_{match[1].lower()}` made",
    r"; update_time is ignored|; built_in is ignored": "",
    r"EventFilter\.data_keys": "`EventFilter.data_keys`",
    r"^The format\.$": "The format; None if there is none or if this client does not know it.",
    r"^The parts of a score\.$": "Why a need and a datum match, or don't.",
    r"[Uu]nset:": "None:",
    r"\bUnset (?=for|if|with)": "None ",
    r"\bis unset\b": "is None",
    r"An unset limit": "A limit of None",
    r"\b(this|last) message\b": r"\1 item",
    r"\bConsumeStart\.(\w+)": r"`\1` of `consume`",
    r"\bSeekConsumerGroup\b": "`seek_consumers`",
    r" \((ProjectService\.EraseData|ListenRequest\.context_format)\)": "",
    r"EventService\.GetEvent": "`get_event`",
    r"in ListAgents\b": "in `list_agents`",
    r"GetAgent and ListAgents": "`get_agent` and `list_agents`",
    r"RegisterAgent and UpdateAgent": "`register` and `update`",
    r"In the response of RegisterAgent or UpdateAgent": "In the answer of `register` or `update`",
    r"GetAgent\b": "`get_agent`",
    r"Pass this to Listen": "Pass this to `listen`",
    r"\b(Listen|Subscribe) stream": lambda match: f"`{match[1].lower()}` stream",
    r"\bSTATE_VIEW_KEYS\b": "`keys_only`",
    r"0\.05, 0\.10, \.\.\. 0\.95 \(19 numbers\)": "each of `THRESHOLDS`",
    r"\bScoreParts\.": "Match.",
    r"(?<=see )(\w+\.\w+)": r"`\1`",
}
"""What is different in the client's words, besides the names of classes and members."""

SCALARS = {
    FieldDescriptorProto.TYPE_STRING: ("str", '""'),
    FieldDescriptorProto.TYPE_BYTES: ("bytes", 'b""'),
    FieldDescriptorProto.TYPE_BOOL: ("bool", "False"),
    FieldDescriptorProto.TYPE_DOUBLE: ("float", "0.0"),
}
"""Types and their defaults; all others are whole numbers."""


@dataclass
class Value:
    """A class to generate."""

    module: str
    name: str
    message: str
    base: str
    marks: list[str]
    converted: bool

    @property
    def converter(self) -> str:
        """The function that converts a message, or the members of an enumeration by number."""
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", self.name).lower()
        return f"_{name}s".upper() if self.base else name

    @property
    def prefix(self) -> str:
        """What the names of an enumeration's members begin with in protos/."""
        return f"{self.converter[1:-1]}_"

    @classmethod
    def parse(cls, module: str, spec: str) -> Value:
        """The class of a line of `VALUES`."""
        name, *marks = spec.split()
        match = re.fullmatch(r"(\w+)(?:=(\w+)|\((\w+)\))?(!?)", name)
        assert match is not None, name
        return cls(module, match[1], match[2] or match[1], match[3] or "", marks, not match[4])


class Protos:
    """The messages and enumerations of protos/, and their comments."""

    def __init__(self) -> None:
        self.types: dict[str, Any] = {}
        self.modules: dict[str, str] = {}
        self.comments: dict[tuple[str, ...], str] = {}
        with tempfile.NamedTemporaryFile() as file:
            options = [f"-I{PROTOS}", f"--descriptor_set_out={file.name}", "--include_source_info"]
            sources = map(str, sorted(PROTOS.rglob("*.proto")))
            command = [sys.executable, "-m", "grpc_tools.protoc", *options, *sources]
            subprocess.run(command, check=True)
            files = FileDescriptorSet.FromString(Path(file.name).read_bytes()).file
        for file in files:
            comments = {
                tuple(at.path): at.leading_comments for at in file.source_code_info.location
            }
            for tag, types in ((4, file.message_type), (5, file.enum_type)):
                for index, one in enumerate(types):
                    self.types[one.name] = one
                    self.modules[one.name] = f"{Path(file.name).stem}_pb2"
                    self.comments[one.name,] = comments[tag, index]
                    for part_index, part in enumerate(one.field if tag == 4 else one.value):
                        place = (tag, index, 2, part_index)
                        self.comments[one.name, part.name] = comments[place]


class Generator:
    """Writes the modules of the values."""

    def __init__(self) -> None:
        self._protos = Protos()
        self._values = [
            Value.parse(module, spec)
            for module, specs in VALUES.items()
            for spec in re.split(r"\n(?! )", textwrap.dedent(specs).strip())
        ]
        self._by_message = {one.message: one for one in self._values}
        methods = ast.parse((PACKAGE / "methods.py").read_text()).body
        self._mixins = {node.name for node in methods if isinstance(node, ast.ClassDef)}
        self._names = {
            one.message: f"`{one.name}`" for one in self._values if one.message != one.name
        }
        for one in self._values:
            for member in self._members(one).values() if one.base else ():
                self._names[f"{one.prefix}{member}"] = f"`{one.name}.{member}`"

    def write(self, folder: Path) -> None:
        """Writes all modules; imports that one does not need are left to be removed."""
        header = [
            "from __future__ import annotations",
            "import enum",
            "from collections.abc import Mapping",
            "from dataclasses import dataclass, field",
            "from datetime import UTC, datetime, timedelta",
            "from typing import TYPE_CHECKING",
            *(f"from contex.methods import {name}" for name in sorted(self._mixins)),
        ]
        messages = sorted(set(self._protos.modules.values()))
        header += ["if TYPE_CHECKING:", f"    from contex.v1 import {', '.join(messages)}"]
        for module in VALUES:
            values = [value for value in self._values if value.module == module]
            names = [value.name for value in values]
            names += [value.converter for value in values if value.converted and not value.base]
            parts = [
                "# Generated from protos/ by `make generate`.",
                f'"""The values of `contex.{module}` that stand for messages."""',
                *header,
                f"__all__ = {sorted(names)}",
                *(self._enum(value) if value.base else self._class(value) for value in values),
            ]
            text = "\n\n".join(parts)
            for value in values:
                if value.base and value.converter in text:
                    items = self._members(value).items()
                    members = ", ".join(f"{number}: {value.name}.{name}" for number, name in items)
                    text += f"\n\n{value.converter} = {{{members}}}"
            (folder / f"{module}.py").write_text(f"{text}\n")
            tables = [v.converter for v in values if v.base and v.converter in text]
            header.insert(2, f"from contex._values.{module} import {', '.join(names + tables)}")

    def _comment(self, *name: str) -> str:
        """The comment of something, in one line and in the client's words."""
        text = " ".join(self._protos.comments[name].split())
        for pattern, replacement in TEXTS.items():
            text = re.sub(pattern, replacement, text)
        return re.sub(r"\w+", lambda match: self._names.get(match[0], match[0]), text)

    def _enum(self, value: Value) -> str:
        lines = [f"class {value.name}(enum.{value.base}):"]
        lines += _docstring("    ", self._comment(value.message))
        for number, name in self._members(value).items():
            member = number if value.base == "IntEnum" else repr(name.lower())
            comment = self._comment(value.message, f"{value.prefix}{name}")
            lines += [f"    {name} = {member}", *_docstring("    ", comment)]
        if value.marks:
            comment = "One that a newer server has added. It can't be asked for."
            lines += ['    OTHER = "other"', *_docstring("    ", comment)]
        return "\n".join(lines)

    def _members(self, value: Value) -> dict[int, str]:
        numbers = self._protos.types[value.message].value[1:]  # without the unspecified one
        return {number.number: number.name.removeprefix(value.prefix) for number in numbers}

    def _class(self, value: Value) -> str:
        fields = list(self._fields(value))
        mixin = f"{value.name}Methods"
        base = f"({mixin})" if mixin in self._mixins else ""
        comments = {name: comment for name, comment, _, _ in fields}
        lines = [
            "@dataclass(frozen=True, slots=True)",
            f"class {value.name}{base}:",
            *_docstring("    ", self._comment(value.message), comments),
            *(f"    {name}: {declared}" for name, _, declared, _ in fields),
        ]
        if value.converted:
            parameters = f"message: {self._protos.modules[value.message]}.{value.message}"
            for name, _, declared, read in fields:
                parameters += f", {name}: {declared}" * (read == name)
            lines += [
                f"def {value.converter}({parameters}) -> {value.name}:",
                f'    """The `{value.name}` of a message."""',
                *(["    parts = message.parts"] if "parts." in str(value.marks) else []),
                f"    return {value.name}(",
                *(f"        {name}={read}," for name, _, _, read in fields),
                "    )",
            ]
        return "\n".join(lines)

    def _fields(self, value: Value) -> Iterator[tuple[str, str, str, str]]:
        """For each field its name, comment, type with default, and the expression that reads it."""
        marks = {re.sub(r"[-=?~#]", "", mark): mark for mark in value.marks}
        is_complete = any(re.fullmatch(r"[\w.:]+", mark) for mark in value.marks)
        names = [one.name for one in self._protos.types[value.message].field]
        has_default = False
        for place in marks if is_complete else names:
            mark = marks.get(place, "")
            if mark.startswith("-"):
                continue
            name, _, source = place.rpartition(".")[2].partition(":")
            # Only a match has fields that are those of a part of it.
            message, owner = ("parts", "ScoreParts") if "." in place else ("message", value.message)
            (one,) = (f for f in self._protos.types[owner].field if f.name == (source or name))
            optional = "?" in mark or one.HasField("oneof_index")
            declared, default, read = self._read(one, f"{message}.{one.name}", optional)
            has_default = has_default or "=" in mark
            if default == "" and has_default:
                declared = declared.replace("field(", "field(default_factory=dict, ")
            elif has_default:
                default = f"field(default={default}, compare=False)" if "~" in mark else default
                declared += f" = {default}"
            elif "#" in mark:
                declared += " = field(repr=False)"
            comment = self._comment(owner, one.name)
            if declared.startswith("datetime"):
                comment = comment.replace(".", " (UTC).", 1)
            yield name, comment, declared, read
        for name in (mark[1:] for mark in value.marks if mark.startswith("+")):
            yield name, *ADDED[name], name

    def _read(self, one: FieldDescriptorProto, read: str, optional: bool) -> tuple[str, str, str]:
        """The type of a field, its default, and the expression that reads it."""
        kind, default, item = *SCALARS.get(one.type, ("int", "0")), read
        reference = one.type_name.rpartition(".")[2]
        value = self._by_message.get(reference)
        if reference == "MetadataEntry":
            return "Mapping[str, str] = field(hash=False)", "", f"dict({read})"
        if reference == "Timestamp":
            kind, item = "datetime", f"{read}.ToDatetime(tzinfo=UTC)"
        elif reference == "Duration":
            kind, item = "timedelta", f"{read}.ToTimedelta()"
        elif value is not None and value.base and one.label == one.LABEL_REPEATED:
            item = f"tuple({value.converter}.get(one, {value.name}.OTHER) for one in {read})"
            return f"tuple[{value.name}, ...]", "()", item
        elif value is not None and value.base:
            kind, default = value.name, f"{value.name}.{next(iter(self._members(value).values()))}"
            if value.marks:
                item = f"{value.converter}.get({read}, {value.name}.OTHER)"
                item += f" if {read} else None" * optional
            else:
                item = (
                    f"{value.converter}.get({read})" if optional else f"{value.converter}[{read}]"
                )
            return (f"{kind} | None", "None", item) if optional else (kind, default, item)
        elif value is not None:
            kind, item = value.name, f"{value.converter}({read})"
        elif reference:
            raise ValueError(f"{reference} has no class")
        if one.label == one.LABEL_REPEATED:
            item = f"tuple({read})" if value is None else f"tuple(map({value.converter}, {read}))"
            return f"tuple[{kind}, ...]", "()", item
        if optional:
            return f"{kind} | None", "None", f"{item} if message.HasField({one.name!r}) else None"
        return kind, default, item


def _docstring(indent: str, text: str, attributes: dict[str, str] | None = None) -> list[str]:
    text, attributes = (
        text.replace("\\", r"\\"),
        attributes and {name: comment.replace("\\", r"\\") for name, comment in attributes.items()},
    )
    summary, stop, rest = text.partition(". ")
    lines = _wrap(f'"""{summary}{stop.strip()}', indent, indent)
    if rest:
        lines += ["", *_wrap(rest, indent, indent)]
    if attributes:
        lines += ["", f"{indent}Attributes:"]
        for name, comment in attributes.items():
            lines += _wrap(f"{name}: {comment}", f"{indent}    ", f"{indent}        ")
    if len(lines) == 1 and len(lines[0]) <= 97:
        return [f'{lines[0]}"""']
    return [*lines, f'{indent}"""']


def _wrap(text: str, first: str, further: str) -> list[str]:
    return textwrap.wrap(
        text, 100, initial_indent=first, subsequent_indent=further, break_on_hyphens=False
    )
