"""Every exception this project raises on purpose.

Each carries in its text what a user needs to act: the resource, the field, the value and the reason.
Command-line entry points print ``str(error)`` and exit non-zero; none of these is ever a traceback to a user.
"""

from __future__ import annotations

from reprlib import Repr


class CalicoError(Exception):
    """Base of all errors of this project; its text is fit to show to a user."""


_repr = Repr()
_repr.maxlevel, _repr.maxstring, _repr.maxother, _repr.maxlong = 5, 400, 400, 100
_repr.maxdict = _repr.maxlist = _repr.maxtuple = _repr.maxset = _repr.maxfrozenset = 8


def shown(value: object) -> str:
    """``repr`` of a value for an error text: of bounded length and work, however large or deep the value is."""
    try:
        return _cut(_repr.repr(value), 1000)
    except ValueError:  # a number of more digits than Python prints
        return f"<{type(value).__name__}>"


class SelectorError(CalicoError):
    """A selector expression that does not parse.

    ``text`` is the whole expression and ``position`` the 0-based character offset of the fault.
    """

    def __init__(self, text: str, position: int, reason: str) -> None:
        super().__init__(f"invalid selector {shown(text)} at position {position}: {reason}")
        self.text = text
        self.position = position
        self.reason = reason


class ValidationError(CalicoError):
    """A resource that breaks a rule of the v3 API.

    ``resource`` is ``Kind(name)`` or ``Kind(namespace/name)``, ``field`` a dotted path such as
    ``spec.ingress[0].source.nets[1]``, ``value`` the offending value, ``origin`` the file and document it came
    from ("" when it did not come from a file).
    """

    def __init__(
        self, reason: str, *, resource: str = "", field: str = "", value: object = None, origin: str = ""
    ) -> None:
        self.reason = reason
        self.resource = resource
        self.field = field
        self.value = value
        self.origin = origin
        super().__init__(reason)

    def __str__(self) -> str:
        parts = [_cut(part) for part in (self.origin, self.resource, self.field) if part]
        if self.field and self.value is not None:
            parts[-1] += f" = {shown(self.value)}"
        return ": ".join([*parts, _cut(self.reason, 4000)])


def _cut(text: str, longest: int = 1000) -> str:
    return text if len(text) <= longest else f"{text[:longest]}…"


class DatastoreError(CalicoError):
    """The datastore could not be reached or refused the request."""


class OutcomeUnknown(DatastoreError):
    """A write was sent and its answer was lost: it may have been carried out, or may still be."""


class Compacted(DatastoreError):
    """The asked revision is no longer kept; ``compact_revision`` is the oldest that is, 0 where that is not known."""

    def __init__(self, compact_revision: int) -> None:
        oldest = f"; the oldest kept is {compact_revision}" if compact_revision else ""
        super().__init__(f"revision has been compacted{oldest}")
        self.compact_revision = compact_revision


class ResourceDoesNotExist(DatastoreError):
    """The named resource is not in the datastore."""

    def __init__(self, resource: str) -> None:
        super().__init__(f"resource does not exist: {resource}")
        self.resource = resource


class ResourceAlreadyExists(DatastoreError):
    """A create found the resource already there."""

    def __init__(self, resource: str) -> None:
        super().__init__(f"resource already exists: {resource}")
        self.resource = resource


class UpdateConflict(DatastoreError):
    """The resource changed between the read and this write; read it again and retry."""

    def __init__(self, resource: str) -> None:
        super().__init__(f"update conflict: {resource}")
        self.resource = resource


class OperationNotSupported(DatastoreError):
    """This datastore or kind does not offer the operation."""


class IPAMError(CalicoError):
    """An address could not be assigned or released."""


class CNIError(CalicoError):
    """A CNI call failed; ``code`` is the CNI error code (CNI SPEC section "Error")."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.details = details


class NetlinkError(CalicoError):
    """The kernel refused a netlink message; ``errno`` is positive."""

    def __init__(self, what: str, errno: int, reason: str) -> None:
        super().__init__(f"{what}: {reason} (errno {errno})")
        self.errno = errno


class DataplaneError(CalicoError):
    """The dataplane could not apply a batch."""


class BGPError(CalicoError):
    """A BGP session or message is at fault."""


class SettingsError(CalicoError):
    """A setting (environment variable, file or flag) has a value that cannot be used."""


class PluginError(CalicoError):
    """A plugin could not be found, loaded or started; the text names it."""


class LabError(CalicoError):
    """The lab could not be brought up, or an instruction to it failed."""
