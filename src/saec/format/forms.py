"""Fields of an artifact by the numbers of their forms."""

from __future__ import annotations

import saec.artifact as artifact
from saec.errors import ArtifactError
from saec.format.clustered_field import ClusteredField
from saec.format.compressed_field import CompressedField
from saec.format.keyed_field import KeyedField
from saec.format.raw_field import RawField
from saec.format.tiered_field import TieredField

__all__ = ["checked_field"]

_FORMS: dict[int, type[CompressedField]] = {
    form.kind: form for form in (RawField, ClusteredField, TieredField, KeyedField)
}


def checked_field(entry: artifact.Entry) -> CompressedField:
    """The field of an entry.

    Raises:
        ArtifactError: its form is unknown, or it is damaged; names the field.
    """
    name = artifact.shortly(entry.name)
    form = _FORMS.get(entry.codec)
    if form is None:
        raise ArtifactError(f"field {name}: codec {entry.codec} is unknown")
    try:
        field = form._from_entry(entry)
    except KeyError as error:
        raise ArtifactError(f"damaged field {name}: there is no tensor {error}") from error
    except ArtifactError as error:
        raise ArtifactError(f"damaged field {name}: {error}") from error
    roles, held = sorted(field.tensors), sorted(entry.tensors)
    if field.entry.head != entry.head or roles != held:
        raise ArtifactError(
            f"damaged field {name}: its record says {entry.dtype} ({entry.vocab_size}, "
            f"{entry.dim}) and {', '.join(held)}; its tensors make {field.dtype} "
            f"({field.vocab_size}, {field.dim}) of {', '.join(roles)}"
        )
    return field
