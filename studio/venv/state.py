"""What is in ``.venv``, and whether it is what this checkout wants."""

import hashlib
import json
import os
import re
from typing import Any, Dict, List, Optional, Sequence

from studio.venv.places import CONSTRAINTS, PYTHON, ROOT, STAMP, UNFINISHED, VENV, VERSIONS, WINDOWS
from studio.venv.programs import probe


def state(extras: Sequence[str]) -> str:
    """``ready``, or what is wrong with ``.venv``: ``missing``, ``broken``, ``damaged`` or ``outdated``."""
    if not os.path.lexists(VENV):
        return "missing"
    if os.path.exists(UNFINISHED) or not os.path.exists(PYTHON):
        return "broken"
    stamp = read_stamp()
    if stamp is None:  # made by hand, perhaps
        return "outdated" if probe(PYTHON)[0] in VERSIONS else "broken"
    lacking = set(stamp["contents"]) - set(contents())
    if any(not name.endswith(".dist-info") for name in lacking):
        return "damaged"
    if lacking or stamp["pins"] != pins(stamp["extras"]) or set(extras) - set(stamp["extras"]):
        return "outdated"
    return "ready"


def read_stamp() -> Optional[Dict[str, Any]]:
    """What was installed, as the last installation noted it; None where there is no such note."""
    try:
        with open(STAMP) as file:
            stamp = json.load(file)  # type: Dict[str, Any]
        return stamp if set(stamp) >= {"pins", "extras", "contents"} else None
    except (OSError, ValueError, TypeError):
        return None


def contents() -> List[str]:
    """The names in site-packages: a package that was removed or exchanged shows here."""
    if WINDOWS:
        return listed(os.path.join(VENV, "Lib", "site-packages"))
    folders = [os.path.join(VENV, "lib", "python" + version, "site-packages") for version in VERSIONS]
    return [name for folder in folders for name in listed(folder)]


def listed(folder: str) -> List[str]:
    """The names in a folder, in order; none where there is no such folder."""
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def requirements(extras: Sequence[str] = ()) -> List[str]:
    """The requirements in pyproject.toml, read without a TOML library: older Pythons have none."""
    with open(os.path.join(ROOT, "pyproject.toml"), encoding="utf-8") as file:
        text = file.read()
    found = []  # type: List[str]
    for name in ["dependencies", *sorted(extras)]:
        block = re.search(r"^%s = \[(.*?)\]\s*$" % re.escape(name), text, re.M | re.S)
        assert block is not None, name
        found += re.findall(r'"([^"]+)"', re.sub(r"#.*", "", block.group(1)))
    return found


def pins(extras: Sequence[str]) -> str:
    """A digest of all that is to be installed."""
    with open(CONSTRAINTS, encoding="utf-8") as file:
        text = "\n".join(requirements(extras)) + file.read()
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
