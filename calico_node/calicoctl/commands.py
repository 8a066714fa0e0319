"""What each command does.  A command returns its exit status; errors are raised."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from calico_node.calicoctl import manifests
from calico_node.calicoctl.connect import complete, connect
from calico_node.calicoctl.errors import InputError
from calico_node.calicoctl.manifests import DEFAULT_AS_NUMBER, DEFAULT_NAMESPACE, Manifest
from calico_node.errors import (
    CalicoError,
    DatastoreError,
    OperationNotSupported,
    ResourceAlreadyExists,
    ResourceDoesNotExist,
    UpdateConflict,
    ValidationError,
)
from calico_node.resources import KINDS, KindInfo, Resource, describe, kind_by_name

if TYPE_CHECKING:
    from calico_node.datastores import Client

Options = dict[str, Any]
Action = Callable[["Client", Resource], Awaitable[Any]]

UPDATE_TRIES = 5


# Writing


def create(options: Options) -> int:
    async def action(client: Client, resource: Resource) -> None:
        try:
            await client.create(_bare(resource))
        except ResourceAlreadyExists:
            if not options["skip_exists"]:
                raise

    return _write(options, "create", "created", action)


def apply(options: Options) -> int:
    return _write(options, "apply", "applied", lambda client, resource: client.apply(resource))


def replace(options: Options) -> int:
    return _write(options, "replace", "replaced", _replace)


async def _replace(client: Client, resource: Resource) -> None:
    """Update what exists; without a resourceVersion of the user's, a conflict is tried again."""
    given = resource.metadata.resource_version
    for attempt in range(1, UPDATE_TRIES + 1):
        if not given:
            metadata = resource.metadata
            stored = await client.get(resource.kind, metadata.name, metadata.namespace)
            resource.metadata.resource_version = stored.metadata.resource_version
        try:
            await client.apply(resource)
            return
        except UpdateConflict:
            if given or attempt == UPDATE_TRIES:
                raise
        await asyncio.sleep(0.1 * attempt)


def _bare(resource: Resource) -> Resource:
    """Without what the datastore gives, so that a document got from one cluster can be created in another."""
    from calico_node.resources import ObjectMeta

    old = resource.metadata
    resource.metadata = ObjectMeta(
        name=old.name, namespace=old.namespace, labels=old.labels, annotations=old.annotations
    )
    return resource


def _write(options: Options, verb: str, past: str, action: Action) -> int:
    items = _read_input(options, changing=verb != "create")
    if not items:
        return 0
    for item in items:
        refuse_read_only(verb, item.resource)

    async def run() -> int:
        done: list[str] = []
        errors: list[CalicoError] = []
        async with connect(options, writing=True) as client:
            await _refuse_unknown(client, items)
            for item in items:
                try:
                    await action(client, item.resource)
                except ValidationError as error:
                    errors.append(item.document.located(error))
                except CalicoError as error:
                    errors.append(error)
                    if type(error) is DatastoreError:
                        break  # the datastore itself is away
                else:
                    done.append(item.resource.described)
        kind = _quoted_kind([item.resource.kind for item in items])
        if errors:
            return _failed(verb, past, kind, len(items), done, errors)
        print(f"Successfully {past} {len(items)} {kind}resource(s)")
        return 0

    return complete(run())


async def _refuse_unknown(client: Client, items: Sequence[Manifest]) -> None:
    """Fields that are not known here are taken where the stored resource has them.  Raises ``InputError``."""
    faults: list[CalicoError] = []
    for item in items:
        if item.unknown is None:
            continue
        metadata = item.resource.metadata
        try:
            item.document.resource(stored=await client.get(item.resource.kind, metadata.name, metadata.namespace))
        except ResourceDoesNotExist:
            faults.append(item.unknown)
        except ValidationError as error:
            faults.append(error)
    manifests.refuse(faults)


def _quoted_kind(kinds: Sequence[str]) -> str:
    """``'Kind' `` where all are of one kind."""
    return f"'{kinds[0]}' " if len(set(kinds)) == 1 else ""


def _failed(verb: str, past: str, kind: str, count: int, done: Sequence[str], errors: Sequence[CalicoError]) -> int:
    """Say what was done in spite of the errors, and what they are.

    What stands behind an error is tried too, as Calico's tool does whatever its help says: a resource that another
    one of the file was to prepare fails for itself.
    """
    text = f"[{' '.join(map(str, errors))}]"
    if done:
        # "the first" is Calico's wording; which they are stands below it.
        print(f"Partial success: {past} the first {len(done)} out of {count} {kind}resources:")
        print("".join(f"  {name}\n" for name in done), end="", flush=True)
        print(f"hit error: {text}", file=sys.stderr)
    elif count == 1:
        print(f"failed to {verb} {kind}resource: {text}", file=sys.stderr)
    else:
        print(f"failed to {verb} any {kind}resources: {text}", file=sys.stderr)
    return 1


def delete(options: Options) -> int:
    targets = _targets(options, required_names=True)
    if not targets:
        return 0
    for kind, name, namespace in targets:
        refuse_read_only_name("delete", kind, name, namespace)
    # Addresses and blocks go with their node or pool.
    cascading = any(kind in ("Node", "IPPool") for kind, _, _ in targets)
    if cascading:
        from calico_node.ipam import cascades

    shown = _quoted_kind([kind for kind, _, _ in targets])

    async def run() -> int:
        deleted, status = 0, 0
        async with connect(options) as client:
            if cascading:
                cascades.register(client)
            for kind, name, namespace in targets:
                try:
                    await client.delete(kind, name, namespace)
                except CalicoError as error:
                    if not (isinstance(error, ResourceDoesNotExist) and options["skip_not_exists"]):
                        print(f"Failed to delete {shown}resource: {error}", file=sys.stderr)
                        status = 1
                        if type(error) is DatastoreError:
                            break  # the datastore itself is away
                        continue
                deleted += 1
        if deleted:
            print(f"Successfully deleted {deleted} {shown}resource(s)")
        return status

    return complete(run())


def patch(options: Options) -> int:
    """Merge a JSON or YAML text into a stored resource: null removes, lists are replaced."""
    from calico_node.resources import from_dict, load_documents, to_dict

    (kind, name, namespace), *_ = _targets({**options, "names": (options["name"],)}, required_names=True)
    refuse_read_only_name("replace", kind, name, namespace)
    documents = load_documents(options["patch"], "patch")
    change = documents[0].data if len(documents) == 1 else None
    if not isinstance(change, dict):
        raise InputError("the patch must be an object, in JSON or YAML")

    async def run() -> None:
        async with connect(options) as client:
            stored = await client.get(kind, name, namespace)
            patched = from_dict(_merge(to_dict(stored), change), origin="after the patch", stored=stored)
            for part in ("name", "namespace"):
                if getattr(patched.metadata, part) != getattr(stored.metadata, part):
                    raise InputError(f"metadata.{part} cannot be changed by a patch")
            await client.update(patched)

    try:
        complete(run())
    except CalicoError as error:
        raise CalicoError(f"hit error: {error}") from None
    print(f"Successfully patched 1 '{kind}' resource")
    return 0


def _merge(old: Any, change: Any) -> Any:
    """RFC 7396: objects merge by member, null removes, everything else replaces."""
    if not isinstance(change, dict):
        return change
    merged = dict(old) if isinstance(old, dict) else {}
    for name, value in change.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge(merged.get(name), value)
    return merged


def label(options: Options) -> int:
    """Set, change or remove one label."""
    (kind, name, namespace), *_ = _targets({**options, "names": (options["name"],)}, required_names=True)
    refuse_read_only_name("replace", kind, name, namespace)
    key, equals, value = options["label"].partition("=")
    if bool(equals) == options["remove"]:
        raise CalicoError(f"invalid label {options['label']}: give key=value, or key with --remove")
    title = f"{options['kind']} {name}"

    async def run() -> str:
        async with connect(options) as client:
            try:
                stored = await client.get(kind, name, namespace)
            except ResourceDoesNotExist:
                raise CalicoError(f"{title} not found") from None
            labels = stored.metadata.labels
            present = key in labels
            if options["remove"]:
                if not present:
                    raise CalicoError(f"cannot remove label of {title}, key {key} does not exist")
                del labels[key]
                done = f"removed label {key} from"
            else:
                if present and labels[key] != value and not options["overwrite"]:
                    raise CalicoError(
                        f"failed to update label of {title}, key {key} is already present. "
                        "please use '--overwrite' to set a new value"
                    )
                labels[key] = value
                done = f"updated label {key} on" if present else f"set label {key} on"
            try:
                await client.update(stored)
            except CalicoError as error:
                raise CalicoError(f"failed to update {title}, label not changed: {error}") from None
            return done

    print(f"Successfully {complete(run())} {title}")
    return 0


def validate(options: Options) -> int:
    items = _read_input(options)
    if items:
        kind = _quoted_kind([item.resource.kind for item in items])
        print(f"Successfully validated {len(items)} {kind}resource(s)")
    return 0


# Reading


def get(options: Options) -> int:
    from calico_node.calicoctl import output

    format_ = output.Format.parse(options["output"])
    listing_of = _listing_kind(options)
    if format_.columns and listing_of:
        from calico_node.calicoctl.tables import check_headings

        check_headings(listing_of.kind, format_.columns)
    targets = [] if listing_of else _targets(options, required_names=False)
    if not (listing_of or targets):
        return 0

    async def run() -> tuple[list[Any], list[CalicoError], int | None]:
        async with connect(options) as client:
            if listing_of:
                listing = await _list(client, listing_of, options)
                return [listing], [], await _cluster_as_number(client)
            found, errors = await _get_each(client, targets)
            return found, errors, await _cluster_as_number(client)

    results, errors, as_number = complete(run())
    if options["export"] and options["names"]:
        results = [_exported(result) for result in results]
    if results or format_.name in ("yaml", "json") or format_.template:
        namespace = bool(options["all_namespaces"] or options["namespace"])
        sys.stdout.write(output.render(results, format_, namespace=namespace, as_number=as_number))
        sys.stdout.flush()
    for error in errors:
        print(error, file=sys.stderr)
    return 1 if errors else 0


def _listing_kind(options: Options) -> KindInfo | None:
    """The kind whose resources are all asked for, None where names or a file say which."""
    if options["filename"] or options["names"] or not options["kind"]:
        return None
    try:
        info = find_kind(options["kind"])
    except CalicoError as error:
        raise CalicoError(f"failed to get resources: {error}") from None
    _check_namespace(info, options)
    return info


async def _list(client: Client, info: KindInfo, options: Options) -> Any:
    from calico_node.calicoctl.output import Listing

    namespace = ""
    if info.namespaced and not options["all_namespaces"]:
        namespace = options["namespace"] or DEFAULT_NAMESPACE
    try:
        found = await client.list(info.kind, namespace)
    except CalicoError as error:
        raise CalicoError(f"failed to get resources: {error}") from None
    items = found.items
    if info.kind == "Tier":
        items = tuple(
            sorted(items, key=lambda tier: (tier.spec.order is None, tier.spec.order or 0, tier.metadata.name))
        )
    return Listing(info.kind, items, found.revision)


async def _get_each(client: Client, targets: Sequence[tuple[str, str, str]]) -> tuple[list[Any], list[CalicoError]]:
    found: list[Any] = []
    errors: list[CalicoError] = []
    for kind, name, namespace in targets:
        try:
            found.append(await client.get(kind, name, namespace))
        except CalicoError as error:
            errors.append(error)
    return found, errors


async def _cluster_as_number(client: Client) -> int | None:
    """The AS number of nodes without one of their own, None where it cannot be read."""
    try:
        number = (await client.get("BGPConfiguration", "default")).spec.as_number
    except ResourceDoesNotExist:
        number = None
    except CalicoError:
        return None
    return DEFAULT_AS_NUMBER if number is None else int(number)


def _exported(resource: Any) -> Any:
    metadata = resource.metadata
    metadata.namespace = ""
    metadata.uid = metadata.resource_version = metadata.creation_timestamp = None
    metadata.deletion_timestamp = metadata.deletion_grace_period_seconds = None
    return resource


# Shared


def _read_input(options: Options, *, changing: bool = False) -> list[Manifest]:
    return manifests.read(
        options["filename"],
        namespace=options["namespace"],
        recursive=options["recursive"],
        skip_empty=options["skip_empty"],
        changing=changing,
    )


def find_kind(name: str) -> KindInfo:
    """The kind a user calls ``name``.  Raises ``InputError``."""
    info = kind_by_name(name)
    if info is None:
        raise CalicoError(f"resource type '{name}' is not supported")
    return info


def _check_namespace(info: KindInfo, options: Options) -> None:
    """Raise where -n and -A do not suit the kind."""
    everywhere = bool(options.get("all_namespaces"))
    if not info.namespaced and (everywhere or options["namespace"]):
        raise CalicoError(f"{info.kind} is not namespaced")
    if everywhere and options["namespace"]:
        raise CalicoError("cannot use both --namespace and --all-namespaces flags at the same time")


def _targets(options: Options, *, required_names: bool) -> list[tuple[str, str, str]]:
    """Kind, name and namespace of every resource that the command is about."""
    if options.get("filename"):
        if options["kind"]:
            raise InputError("give either -f or KIND and NAME")
        items = manifests.read(
            options["filename"],
            namespace=options["namespace"],
            recursive=options["recursive"],
            check=False,
            skip_empty=options["skip_empty"],
        )
        return [(item.resource.kind, _name(item), item.resource.metadata.namespace) for item in items]
    if not options["kind"]:
        raise InputError("give -f FILE, or KIND and NAME")
    info = find_kind(options["kind"])
    _check_namespace(info, options)
    if required_names and not options["names"]:
        raise InputError(f"give the name of the {info.kind} to delete")
    if not all(options["names"]):
        raise CalicoError("resource name may not be empty")
    if options.get("all_namespaces"):
        raise CalicoError("cannot use --all-namespace flag for getting a single resource")
    namespace = (options["namespace"] or DEFAULT_NAMESPACE) if info.namespaced else ""
    return [(info.kind, name, namespace) for name in options["names"]]


def _name(item: Manifest) -> str:
    resource = item.resource
    if not resource.metadata.name:
        raise InputError(f"{item.document.origin()}: {resource.kind}: metadata.name: is required")
    return resource.metadata.name


def refuse_read_only(verb: str, resource: Resource) -> None:
    refuse_read_only_name(verb, resource.kind, resource.metadata.name, resource.metadata.namespace)


def refuse_read_only_name(verb: str, kind: str, name: str, namespace: str) -> None:
    """Raise for what only the system writes: ClusterInformation and policies that come from Kubernetes."""
    if not KINDS[kind].names:
        raise InputError(f"resource type '{kind}' is not supported")
    reason = ""
    if kind == "ClusterInformation":
        reason = "it is read-only"
    elif kind == "NetworkPolicy" and name.startswith("knp.default."):
        reason = "kubernetes network policies must be managed through the kubernetes API"
    if reason:
        operation = {"create": "Create", "apply": "Apply", "replace": "Update", "delete": "Delete"}[verb]
        title = describe(kind, name, namespace)
        raise OperationNotSupported(f"operation {operation} is not supported on {title}: {reason}")
