"""XML files without declarations: elements, attributes and text, whatever the file's encoding.

A document type can declare entities and default attributes, a few of which expand to gigabytes. Annotations have none.
Looking for ``<!ENTITY`` among the bytes would miss it in UTF-16, so the parser itself refuses where it meets one.
"""

from __future__ import annotations

from xml.etree import ElementTree
from xml.parsers import expat


class DeclarationFound(ValueError):  # noqa: N818 - reads as what happened
    """A file declares something that could expand."""


def parse_xml(content: bytes) -> ElementTree.Element:
    """Return the root of an XML document.

    Raises:
        DeclarationFound: If the document declares an entity, an element or attributes.
        ValueError: If it is no XML, or of an encoding that is not known; the message says where and why.
    """
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = _refuse
    parser.AttlistDeclHandler = _refuse
    parser.ElementDeclHandler = _refuse
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, LookupError) as error:
        raise ValueError(str(error)) from None
    return builder.close()


def _refuse(*declared: object) -> None:
    raise DeclarationFound("it declares XML entities or attributes; remove them")
