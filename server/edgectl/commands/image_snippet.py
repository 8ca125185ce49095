"""``edgectl devices image-snippet``: what an image for many devices does at their first boot."""

from __future__ import annotations

import click

from edgectl.durations import Duration
from edgectl.errors import doing
from edgectl.output import age, consoles, print_json
from edgectl.session import GROUP, Session, examples, json_option, pass_session
from edgectl.transport import is_loopback

__all__ = ["image_snippet"]


@click.command(
    "image-snippet",
    epilog=examples(
        "edgectl devices image-snippet --uses 50 --expires 7d --group site-a > user-data",
        "edgectl devices image-snippet --uses 50 --prefix pi --form script > firstboot.sh",
    ),
)
@click.option(
    "--uses",
    type=click.IntRange(1, 10_000),
    required=True,
    help="How many devices boot from the image: so many may enrol with its token.",
)
@click.option(
    "--expires",
    type=Duration(60, 30 * 86400),
    default="7d",
    show_default=True,
    help="How long the token is valid; cards that boot later do not get in.",
)
@click.option("--group", type=GROUP, default="", help="Into this group, such as site-a.")
@click.option(
    "--prefix",
    default="device",
    show_default=True,
    help="How their names begin; 8 digits of the machine's id follow.",
)
@click.option(
    "--package",
    default="/boot/firmware/edgectl-agent.deb",
    show_default=True,
    help="Where in the image the agent's Debian package lies.",
)
@click.option(
    "--form",
    type=click.Choice(["cloud-init", "script"]),
    default="cloud-init",
    show_default=True,
    help="cloud-init's user-data, or a script that the image runs once, as root.",
)
@click.option("--server", default="", help="Address by which devices reach it, if not the login's.")
@json_option
@pass_session
def image_snippet(
    session: Session,
    *,
    uses: int,
    expires: int,
    group: str,
    prefix: str,
    package: str,
    form: str,
    server: str,
    as_json: bool,
) -> None:
    """Make a token, and print what each device of an image does with it at its first boot.

    The device installs the package, enrols under a name of its own, starts the agent, and removes
    the token. The image holds the token: whoever has the image can let so many devices in until it
    expires; `edgectl devices token revoke` ends that.
    """
    with session.connect() as client, doing("making the snippet"):
        address = server or client.url
        # Looked at before the token is made: a wrong option leaves no token behind.
        found = client.image_snippet(server=address, prefix=prefix, package=package, form=form)
        token = client.create_enrol_token(uses=uses, expires_in_s=expires, group=group)
    text = found.text.replace(found.placeholder, token.token)
    if as_json:
        print_json(
            {
                "form": form,
                "token": token.id,
                "uses": uses,
                "expires_at": token.expires_at,
                "text": text,
            }
        )
        return
    click.echo(text, nl=False)
    errors = consoles()[1]
    who = "one device" if uses == 1 else f"{uses} devices"
    errors.print(
        f"for {who}, expires {age(token.expires_at)}; once they are in: "
        f"edgectl devices token revoke {token.id}",
        soft_wrap=True,
    )
    if is_loopback(address):
        errors.print(f"no other machine reaches {address}: give --server with its real address")
