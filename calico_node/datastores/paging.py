"""All keys of a prefix at one revision, page by page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from calico_node.datastores.kv import KVEngine, RangeResult


async def pages(kv: KVEngine, prefix: str, limit: int, revision: int = 0) -> AsyncGenerator[RangeResult, None]:
    """Pages of at most ``limit`` keys, all of them as of ``revision``; 0 is that of the first page.

    The next page is asked for while the caller works on the one it was given.  Raises ``Compacted`` where that
    revision is gone before the last page is read.  Close it (``aclosing``) to end what is under way.
    """
    following = asyncio.ensure_future(kv.range(prefix, start_after="", limit=limit, revision=revision))
    try:
        while True:
            page = await following
            revision = revision or page.revision
            if page.more:
                after = page.kvs[-1].key
                following = asyncio.ensure_future(kv.range(prefix, start_after=after, limit=limit, revision=revision))
            yield RangeResult(page.kvs, revision, page.more)
            if not page.more:
                return
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
