"""`contex publish`: one event, or a file of them over one stream."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contex_server.cli import drafts, options
from contex_server.cli.bulk import publish_lines
from contex_server.cli.exits import ExitCode, InputError, complain, complain_about
from contex_server.cli.output import error_console, plain, print_json, print_line
from contex_server.cli.running import run

if TYPE_CHECKING:
    from contex import Durability, Receipt


_NOT_DELETED = ("VALUE", "--description", "--type", "--content-type", "--meta")
"""What a deletion does not have."""


def publish(
    data_key: Annotated[
        str | None,
        typer.Argument(
            metavar="KEY", help="The datum; '' for an event of your own type about none."
        ),
    ] = None,
    value: Annotated[
        str | None, typer.Argument(metavar="VALUE|-|@FILE", help="The fact; - reads stdin.")
    ] = None,
    description: Annotated[
        str, typer.Option("--description", "-d", help="What the datum is, in plain words.")
    ] = "",
    event_type: Annotated[str, typer.Option("--type", help="An event type of your own.")] = "",
    content_type: Annotated[
        str | None,
        typer.Option(help="Media type. By default JSON is recognised, then the file's suffix."),
    ] = None,
    metadata: Annotated[
        list[str] | None, typer.Option("--meta", metavar="KEY=VALUE", help="Repeatable.")
    ] = None,
    expected_revision: Annotated[
        int | None,
        typer.Option(min=0, help="Refuse unless the key is at this revision; 0: never published."),
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the datum.")] = False,
    request_id: Annotated[
        str | None, typer.Option(help="Makes a repetition safe. [default: a new UUID]")
    ] = None,
    durability: Annotated[
        str | None,
        typer.Option(metavar="LEVEL", help="memory, fsync or replicated. [default: fsync]"),
    ] = None,
    stream: Annotated[
        str | None,
        typer.Option(metavar="FILE|-", help="Publish every line of a JSON-lines file instead."),
    ] = None,
    publisher: Annotated[str, typer.Option(envvar="CONTEX_PUBLISHER", help="Who publishes.")] = "",
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Publish a fact, or with --stream a file of facts.

    VALUE is published as JSON if it is JSON, otherwise as text.

    A line for --stream is an object with data_key, data (any JSON value; or payload_text, or
    payload_base64), and optionally description, event_type, content_type, metadata, tombstone and
    expected_revision. Refused batches are reported, the others are published.
    """
    single_only = {
        "KEY": data_key,
        "VALUE": value,
        "--description": description,
        "--type": event_type,
        "--content-type": content_type,
        "--meta": metadata,
        "--expected-revision": expected_revision,
        "--delete": delete,
        "--request-id": request_id,
    }
    if stream is not None:
        excess = [n for n, v in single_only.items() if v not in (None, "", False, [])]
        if excess:
            raise typer.BadParameter(
                f"{excess[0]} goes into the lines of the file", param_hint="--stream"
            )
        run(
            publish_lines(
                stream, durability_of(durability), publisher, project, target, timeout, as_json
            )
        )
    if data_key is None:
        raise typer.BadParameter("missing; or use --stream", param_hint="KEY")
    if delete:
        excess = [n for n in _NOT_DELETED if single_only[n] not in (None, "", [])]
        if excess:
            raise typer.BadParameter(f"takes no {excess[0]}", param_hint="--delete")
    if value is None and not delete:
        raise typer.BadParameter("missing; - reads stdin, @FILE a file", param_hint="VALUE")
    try:
        fields: dict[str, Any] = {
            "expected_revision": expected_revision,
            "durability": durability_of(durability),
            "request_id": request_id or uuid.uuid4().hex,
        }
        if value is not None:
            payload, content_type = drafts.read_payload(value, content_type)
            fields |= {
                "payload": payload,
                "content_type": content_type,
                "description": description,
                "event_type": event_type,
                "metadata": drafts.parse_metadata(metadata or []),
            }
    except InputError as error:
        raise typer.Exit(complain_about(error)) from None
    run(_publish(data_key, fields, publisher, project, target, timeout, as_json))


def durability_of(name: str | None) -> Durability | None:
    """The level called `name`.

    Raises:
        typer.BadParameter: There is none.
    """
    from contex import Durability

    if name is None:
        return None
    try:
        return Durability[name.upper()]
    except KeyError:
        names = ", ".join(level.name.lower() for level in Durability)
        raise typer.BadParameter(
            f"{name!r} is none of {names}", param_hint="--durability"
        ) from None


async def _publish(
    data_key: str,
    fields: dict[str, Any],
    publisher: str,
    project: str,
    target: str,
    timeout: float,
    as_json: bool,
) -> ExitCode:
    from contex import DeadlineExceeded, Unavailable

    async with options.connect(target, timeout, publisher) as client:
        try:
            receipt: Receipt
            if "payload" in fields:
                receipt = await client.publish(project, data_key, **fields)
            else:
                receipt = await client.delete(project, data_key, **fields)
        except (DeadlineExceeded, Unavailable) as error:
            code = complain_about(error)
            complain(
                "whether it was published is not known; "
                f"repeating it with --request-id {fields['request_id']} is safe"
            )
            return code
    if as_json:
        print_json(
            {
                "sequence": receipt.sequence,
                "data_key": data_key,
                "revision": receipt.revision,
                "durability": receipt.durability.name,
                "duplicate": receipt.duplicate,
                "request_id": fields["request_id"],
            }
        )
        return ExitCode.OK
    what = f"{plain(data_key)} revision {receipt.revision}" if data_key else "event"
    print_line(f"{what}  {receipt.sequence}  on {_reached(receipt)}")
    wanted = fields["durability"]
    if wanted is not None and receipt.durability < wanted:
        error_console().print("there is no replica, or it did not confirm in time")
    if receipt.duplicate:
        error_console().print("published before under this request id; nothing was appended now")
    return ExitCode.OK


def _reached(receipt: Receipt) -> str:
    return {"MEMORY": "memory", "FSYNC": "disk", "REPLICATED": "disk and a replica"}[
        receipt.durability.name
    ]
