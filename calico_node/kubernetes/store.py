"""A small Kubernetes object store in a directory: what an API server would hold, as files.

Layout under the root: ``<plural>/<namespace>_<name>.json`` (``<plural>/<name>.json`` for cluster-scoped kinds),
``generation`` (a number that grows with every change), ``acknowledged`` (what the controllers have carried out).
Files are replaced atomically; a change of many objects happens under one exclusive lock and is one generation, and
readers take the lock shared, so that they see all of it or nothing.

All methods but ``watch`` and ``wait_acknowledged`` block on files; call them in a worker thread when that matters.
"""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import orjson
from attrs import field, frozen

from calico_node.errors import DatastoreError, ValidationError
from calico_node.kubernetes.kinds import KINDS, Object, Ref, ref_of

ENVIRONMENT = "CALICO_KUBERNETES_STORE"
POLL = 0.01  # seconds between looks at the generation


@frozen
class Acknowledgement:
    """The controllers have carried out everything up to ``generation``; what they wrote is in force on a node that
    has applied datastore ``revision``.  ``rejected`` maps objects to why they are not carried out."""

    generation: int = 0
    revision: int = 0
    rejected: Mapping[str, str] = field(factory=dict, hash=False)


class KubernetesStore:
    """The store at ``root`` (made when absent)."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> KubernetesStore | None:
        """The store that CALICO_KUBERNETES_STORE names; None when it is not set."""
        path = environ.get(ENVIRONMENT, "")
        return cls(path) if path else None

    # -- writing ------------------------------------------------------------------------------------------------

    def apply(self, objects: Iterable[Mapping[str, Any]], delete: Iterable[Ref] = ()) -> int:
        """Create or replace ``objects`` and remove ``delete``, as one change; returns its generation.

        An object keeps its uid and creationTimestamp when replaced; its resourceVersion is the generation.  Raises
        ``ValidationError`` for a kind unknown here, before anything is written.
        """
        wanted = [(ref_of(document), document) for document in objects]
        removed = list(delete)
        for ref in [*(ref for ref, _ in wanted), *removed]:
            self._path(ref)
        self.root.mkdir(parents=True, exist_ok=True)
        with self._locked(fcntl.LOCK_EX):
            generation = self.generation() + 1
            for ref, document in wanted:
                self._write(self._path(ref), self._stamped(ref, document, generation))
            for ref in removed:
                self._path(ref).unlink(missing_ok=True)
            self._write_bytes(self.root / "generation", str(generation).encode())
        return generation

    def delete(self, refs: Iterable[Ref]) -> int:
        """Remove objects (absent ones are no error); returns the change's generation."""
        return self.apply((), delete=refs)

    def _stamped(self, ref: Ref, document: Mapping[str, Any], generation: int) -> Object:
        stored = (self.get(ref.kind, ref.name, ref.namespace) or {}).get("metadata") or {}
        metadata = dict(document.get("metadata") or {})
        if ref.namespace:
            metadata["namespace"] = ref.namespace
        metadata["uid"] = stored.get("uid") or metadata.get("uid") or str(uuid.uuid4())
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        metadata["creationTimestamp"] = stored.get("creationTimestamp") or now
        metadata["resourceVersion"] = str(generation)
        return {**document, "metadata": metadata}

    # -- reading ------------------------------------------------------------------------------------------------

    def generation(self) -> int:
        """The generation of the last change; 0 for an empty store."""
        try:
            return int((self.root / "generation").read_bytes() or b"0")
        except FileNotFoundError:
            return 0

    def get(self, kind: str, name: str, namespace: str = "") -> Object | None:
        return _read(self._path(Ref(kind, namespace, name)))

    def list(self, kind: str, namespace: str = "") -> Sequence[Object]:
        """All objects of a kind (of one namespace), by namespace and name."""
        folder = self.root / KINDS[kind].plural
        paths = sorted(folder.glob(f"{namespace}_*.json" if namespace else "*.json")) if folder.is_dir() else []
        return [document for path in paths if (document := _read(path)) is not None]

    def _path(self, ref: Ref) -> Path:
        kind = KINDS.get(ref.kind)
        if kind is None:
            raise ValidationError(f"the Kubernetes store keeps no kind {ref.kind!r}", field="kind", value=ref.kind)
        if not ref.name or any(c in "/_\0" for c in ref.name + ref.namespace) or ref.name.startswith("."):
            raise ValidationError("not a name of a Kubernetes object", resource=str(ref), field="metadata.name")
        stem = f"{ref.namespace}_{ref.name}" if kind.namespaced else ref.name
        return self.root / kind.plural / f"{stem}.json"

    # -- watching -----------------------------------------------------------------------------------------------

    async def watch(self, after: int = 0, *, poll: float = POLL) -> AsyncIterator[int]:
        """The store's generation, each time it is another than ``after`` or the one given before.  One look costs one
        read of a few bytes."""
        seen = after
        while True:
            generation = self.generation()
            if generation != seen:
                seen = generation
                yield generation
            await anyio.sleep(poll)

    # -- acknowledging ------------------------------------------------------------------------------------------

    def acknowledge(self, done: Acknowledgement) -> None:
        """State what has been carried out."""
        self._write(
            self.root / "acknowledged",
            {"generation": done.generation, "revision": done.revision, "rejected": dict(done.rejected)},
        )

    def acknowledged(self) -> Acknowledgement:
        data = _read(self.root / "acknowledged") or {}
        return Acknowledgement(data.get("generation", 0), data.get("revision", 0), data.get("rejected", {}))

    async def wait_acknowledged(self, generation: int, timeout: float, *, poll: float = POLL) -> Acknowledgement:
        """Wait until ``generation`` has been carried out.  Raises ``DatastoreError`` after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            done = self.acknowledged()
            if done.generation >= generation:
                return done
            if time.monotonic() > deadline:
                raise DatastoreError(
                    f"the Kubernetes controllers have carried out generation {done.generation} of {generation} "
                    f"after {timeout:g} s"
                )
            await anyio.sleep(poll)

    # -- files --------------------------------------------------------------------------------------------------

    @contextmanager
    def _locked(self, mode: int) -> Iterator[None]:
        descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, mode)
            yield
        finally:
            os.close(descriptor)

    def _write(self, path: Path, document: Mapping[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write_bytes(path, orjson.dumps(document))

    def _write_bytes(self, path: Path, raw: bytes) -> None:
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_bytes(raw)
        temporary.replace(path)


class StoreReader:
    """Follows a store: each ``refresh`` reads only the files that changed since the last."""

    def __init__(self, store: KubernetesStore, kinds: Iterable[str]) -> None:
        self._store = store
        self._kinds = tuple(kinds)
        self._files: dict[Path, tuple[tuple[int, int, int], Object | None]] = {}
        self.objects: dict[Ref, Object] = {}

    def refresh(self) -> tuple[int, dict[Ref, Object | None]]:
        """The store's generation, and the objects that are new, changed or (None) gone since the last refresh."""
        self._store.root.mkdir(parents=True, exist_ok=True)
        with self._store._locked(fcntl.LOCK_SH):
            generation = self._store.generation()
            files = {path: self._read(path, stamp) for path, stamp in self._scan()}
        self._files = files
        objects = {ref_of(document): document for _, document in files.values() if document is not None}
        changed: dict[Ref, Object | None] = {
            ref: document for ref, document in objects.items() if self.objects.get(ref) is not document
        }
        changed.update({ref: None for ref in self.objects if ref not in objects})
        self.objects = objects
        return generation, changed

    def _scan(self) -> Iterator[tuple[Path, tuple[int, int, int]]]:
        for kind in self._kinds:
            folder = self._store.root / KINDS[kind].plural
            if not folder.is_dir():
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.endswith(".json"):
                        stat = entry.stat()
                        yield Path(entry.path), (stat.st_ino, stat.st_mtime_ns, stat.st_size)

    def _read(self, path: Path, stamp: tuple[int, int, int]) -> tuple[tuple[int, int, int], Object | None]:
        known = self._files.get(path)
        return known if known is not None and known[0] == stamp else (stamp, _read(path))


def _read(path: Path) -> Object | None:
    """None for a file that is not there, or is not a JSON object."""
    try:
        data = orjson.loads(path.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return None
    return data if isinstance(data, dict) else None
