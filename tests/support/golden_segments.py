"""Makes the golden segments: `python -m tests.support.golden_segments`.

Run it once for a new format version, and never again for one that was released: what
it made then must be readable for ever.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from blake3 import blake3

from services.segments.encode import opaque_encoder
from services.segments.layout import VERSION
from services.segments.prefix import PrefixCache
from tests.support import segments

FOLDER: Final = Path(__file__).parents[1] / "golden" / "segments"
CHAINS: Final = FOLDER / f"v{VERSION}-chains.json"


def text(pages: int, page_size: int, seed: int) -> segments.Image:
    """Pages of text: small once they are compressed."""
    line = "page {} of {}: the agent said that it would.\n"
    return [
        (line.format(number, seed) * (page_size // 40)).encode()[:page_size]
        for number in range(1, pages + 1)
    ]


def chains() -> dict[str, tuple[list[bytes], bytes]]:
    """By name: the segments, and the file that they come to."""
    made = {}
    for page_size, pages in ((512, 200), (4096, 70), (65_536, 20)):
        first = text(pages, page_size, 1)
        second = segments.edited(first, [1, 2, pages], b"second")
        third = [*segments.edited(second, [1, 3, pages], b"third"), bytes(page_size)]
        fourth = third[: pages // 2]
        cache = PrefixCache()
        chain = [segments.base(first)]
        for old, new in ((first, second), (second, third), (third, fourth)):
            chain.append(segments.delta(old, new, cache.source))
            for block in segments.delta_blocks(old, new):
                cache.offer(block)
            cache.commit(len(new))
        made[f"pages-{page_size}"] = (chain, b"".join(fourth))
    noise = segments.image(3, 4096)
    made["stored"] = ([segments.base(noise)], b"".join(noise))
    return made


def opaque() -> dict[str, bytes]:
    return {
        "opaque-empty": b"",
        "opaque-short": b"no database, kept all the same",
        "opaque-long": bytes(range(256)) * 5000,
    }


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    record = {}
    for name, (chain, result) in chains().items():
        record[name] = _keep(name, chain, result)
    for name, body in opaque().items():
        record[name] = _keep(name, [b"".join(opaque_encoder([body]))], body)
    CHAINS.write_text(json.dumps(record, indent=1) + "\n")


def _keep(name: str, chain: list[bytes], result: bytes) -> dict[str, object]:
    listed = []
    for number, segment in enumerate(chain):
        path = FOLDER / f"v{VERSION}-{name}-{number}.segment"
        path.write_bytes(segment)
        listed.append({"file": path.name, "blake3": blake3(segment).hexdigest()})
    return {"segments": listed, "blake3": blake3(result).hexdigest()}


if __name__ == "__main__":
    main()
