"""What an image for many devices does at their first boot, so that each enrols by itself.

The text is a template: `TOKEN` in it stands for an enrolment token, which whoever writes the image
puts there. What is put into the text here holds no character that YAML or a shell would read as
anything else, or it is not put in.
"""

from __future__ import annotations

import re
from textwrap import indent
from typing import Literal

__all__ = ["PACKAGE", "PREFIX", "SERVER", "TOKEN", "image_snippet"]

TOKEN = "@TOKEN@"  # noqa: S105 - its place
SERVER = r"^https?://([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:]{2,39}\])(:[0-9]{1,5})?$"
PREFIX = r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"
"""Of a device's name; ``-`` and eight digits of the machine's id follow."""
PACKAGE = r"^(/[A-Za-z0-9_][A-Za-z0-9._+~-]{0,99}){1,8}\.deb$"

_SCRIPT = """\
#!/bin/sh
# edgectl: this device joins the fleet of {server}, at its first boot.
set -u
export DEBIAN_FRONTEND=noninteractive
installed() {{
  [ "$(dpkg-query -W -f='${{db:Status-Status}}' edgectl-agent 2>/dev/null)" = installed ]
}}
package() {{
  dpkg --configure -a  # where the power went while something was installed
  apt-get install -y {package}
}}
join() {{
  installed || package || {{ apt-get update && package; }} || return
  edgectl-agent setup --server {server} --authority {authority} \\
    --device "{prefix}-$(cut -c1-8 /etc/machine-id)" --token-file /etc/edgectl/token
}}
tries=0
until join; do
  tries=$((tries + 1))
  [ "$tries" -lt 30 ] || exit 1
  sleep 10  # until the network is there, the clock is set, and nobody else installs
done
"""
_UNIT = """\
[Unit]
Description=edgectl: this device joins its fleet
# Removed when it has; until then at every boot, because the power may go at any time.
ConditionPathExists=/etc/edgectl/token
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/usr/local/sbin/edgectl-first-boot

[Install]
WantedBy=multi-user.target
"""
_CLOUD = """\
#cloud-config
# As the file user-data of an image: each device that boots from it joins the fleet by itself.
write_files:
  - path: /etc/edgectl/token
    permissions: "0600"
    content: |
      {token}
  - path: /usr/local/sbin/edgectl-first-boot
    permissions: "0755"
    content: |
{script}
  - path: /etc/systemd/system/edgectl-first-boot.service
    permissions: "0644"
    content: |
{unit}
runcmd:
  - [systemctl, enable, --now, --no-block, edgectl-first-boot.service]
  - [sync]
"""
_ALONE = """\
install -d /etc/edgectl
(umask 077 && echo {token} >/etc/edgectl/token)
"""


def image_snippet(
    form: Literal["cloud-init", "script"],
    *,
    server: str,
    authority: str,
    prefix: str,
    package: str,
) -> str:
    """Return the text, with `TOKEN` where the token belongs.

    Args:
        form: cloud-init's user-data, or a script that the image runs once, as root.
        server: address by which devices reach the server; matches `SERVER`.
        authority: fingerprint of the installation's authority, ``sha256:`` and 64 digits.
        prefix: how the names of the devices begin; matches `PREFIX`.
        package: where in the image the agent's Debian package lies; matches `PACKAGE`.

    Raises:
        ValueError: one of them does not match.
    """
    for text, pattern in (
        (server, SERVER),
        (authority, r"^sha256:[0-9a-f]{64}$"),
        (prefix, PREFIX),
        (package, PACKAGE),
    ):
        if not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(f"{text[:80]!r} does not match {pattern}")
    script = _SCRIPT.format(server=server, authority=authority, prefix=prefix, package=package)
    if form == "script":
        head, rest = script.split("set -u\n")
        return f"{head}set -u\n{_ALONE.format(token=TOKEN)}{rest}"
    return _CLOUD.format(
        token=TOKEN, script=indent(script, " " * 6).rstrip(), unit=indent(_UNIT, " " * 6).rstrip()
    )
