"""Files to resources: everything is read and checked before anything is written."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from attrs import frozen

from calico_node.calicoctl.errors import InputError
from calico_node.errors import CalicoError, ValidationError
from calico_node.resources import KINDS, Document, Resource, apply_defaults, expand_lists, load_documents
from calico_node.resources import validate as validate_resource

SUFFIXES = (".yaml", ".yml", ".json")
DEFAULT_NAMESPACE = "default"
DEFAULT_AS_NUMBER = 64512
MAX_INPUT = 1 << 26
"""Bytes that one file, or standard input, may have: more is a mistake (a device, an endless pipe)."""


@frozen
class Manifest:
    """A resource and the document it was read from.

    ``unknown`` says which field of it is not known here: it may stand in what the datastore has already.
    """

    resource: Resource
    document: Document
    unknown: ValidationError | None = None


def read(
    filename: str,
    *,
    namespace: str = "",
    recursive: bool = False,
    check: bool = True,
    skip_empty: bool = False,
    changing: bool = False,
) -> list[Manifest]:
    """The resources of a file, folder or ``-``, in order, each with a namespace where its kind has one.

    With ``check`` all of them are validated.  ``changing`` says that they are to change what is stored: those that
    were got from a datastore (they have a uid) may have fields that are not known here.  Raises ``InputError`` that
    names every document at fault, and ``CalicoError`` for a file or folder without any, unless ``skip_empty``.
    """
    manifests: list[Manifest] = []
    faults: list[CalicoError] = []
    empty: list[str] = []
    for document in documents(filename, recursive, faults, empty):
        try:
            manifests.append(_manifest(document, namespace, check, changing))
        except ValidationError as error:
            faults.append(error)
    refuse(faults)
    if not skip_empty and (empty or not manifests):
        place = f"file {empty[0]}" if empty else f"directory {filename}"
        raise CalicoError(f"No resources specified in {place}")
    if not manifests:
        print("No resources specified")
    return manifests


def refuse(faults: Sequence[CalicoError]) -> None:
    """Raise ``InputError`` with all of them, where there are any."""
    if len(faults) == 1:
        raise InputError(str(faults[0]))
    if faults:
        lines = "".join(f"\n  {fault}" for fault in faults)
        raise InputError(f"{len(faults)} documents cannot be used, nothing was done:{lines}")


def documents(
    filename: str, recursive: bool, faults: list[CalicoError], empty: list[str] | None = None
) -> Iterator[Document]:
    """Every document of a file, folder or ``-``; files that hold none for a fault in them add it to ``faults``, those
    that just hold none add their name to ``empty``.

    Raises ``InputError`` where one cannot be read.
    """
    for source, text in _texts(filename, recursive):
        try:
            found = list(expand_lists(load_documents(text, source)))
        except ValidationError as error:
            faults.append(error)
            continue
        if not found and empty is not None:
            empty.append(source)
        yield from found


def _texts(filename: str, recursive: bool) -> list[tuple[str, bytes]]:
    if filename == "-":
        return [("standard input", _read(sys.stdin.buffer, "standard input"))]
    path = Path(filename)
    if path.is_dir():
        found = path.rglob("*") if recursive else path.glob("*")
        # A link to nowhere is an error when it is opened, not a file that nobody misses.
        files = sorted(
            file
            for file in found
            if file.suffix.lower() in SUFFIXES and (file.is_file() or (file.is_symlink() and not _exists(file)))
        )
    else:
        files = [path]
    texts = []
    for file in files:
        try:
            with file.open("rb") as stream:
                texts.append((str(file), _read(stream, str(file))))
        except OSError as error:
            raise InputError(f"cannot read {file}: {error.strerror}") from None
    return texts


def _exists(file: Path) -> bool:
    try:
        return file.exists()
    except OSError:  # a loop of links
        return False


def _read(stream: BinaryIO, source: str) -> bytes:
    text = stream.read(MAX_INPUT + 1)
    if len(text) > MAX_INPUT:
        raise InputError(f"{source} has more than {MAX_INPUT:,} bytes")
    return text


def _manifest(document: Document, namespace: str, check: bool, changing: bool) -> Manifest:
    unknown = None
    try:
        resource = document.resource()
    except ValidationError as error:
        if not changing:
            raise
        resource, unknown = _of_newer_release(document, error), error
    set_namespace(resource, namespace, document)
    if check:
        prepared = copy.deepcopy(resource)
        apply_defaults(prepared)
        try:
            validate_resource(prepared)
        except ValidationError as error:
            raise document.located(error) from None
    return Manifest(resource, document, unknown)


def _of_newer_release(document: Document, error: ValidationError) -> Resource:
    """The resource with its unknown fields; raises ``error`` where it was not got from a datastore, or is amiss."""
    try:
        resource = document.resource(strict=False)
    except ValidationError:
        raise error from None
    if not resource.metadata.uid:
        raise error
    return resource


def set_namespace(resource: Resource, namespace: str, document: Document) -> None:
    """The namespace of the document, of ``-n`` or the default; two different ones are an error.

    So is one for a kind that has none.
    """
    metadata = resource.metadata
    if not KINDS[resource.kind].namespaced:
        reason = ""
        if metadata.namespace:
            reason = (
                "namespace should not be specified for a non-namespaced resource. "
                f"{resource.kind} is not a namespaced resource"
            )
        elif namespace:
            reason = f"{resource.kind} is not namespaced"
        if reason:
            origin = document.origin("metadata.namespace")
            raise ValidationError(reason, resource=resource.described, origin=origin)
        return
    if metadata.namespace and namespace and metadata.namespace != namespace:
        raise ValidationError(
            f"resource namespace does not match client namespace. {metadata.namespace} != {namespace}",
            resource=resource.described,
            field="metadata.namespace",
            origin=document.origin("metadata.namespace"),
        )
    metadata.namespace = metadata.namespace or namespace or DEFAULT_NAMESPACE
