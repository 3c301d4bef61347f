"""XMP packets: sizes kept true, and a record of how a picture was made."""

from __future__ import annotations

import json
from typing import Any
from xml.dom.minidom import Document, Element, parseString
from xml.parsers.expat import ExpatError

PROVENANCE = "http://ns.srup.org/provenance/1.0/"
"""The namespace of srup's record; ``provenance`` in it is a JSON object."""

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_TIFF = "http://ns.adobe.com/tiff/1.0/"
_EXIF = "http://ns.adobe.com/exif/1.0/"
_XMLNS = "http://www.w3.org/2000/xmlns/"
# A tree takes about a kilobyte for each node; files from a camera or a photo editor hold a few thousand.
_LARGEST = 2**22
_MOST_NODES = 200_000
# The tree is walked by recursion; packets are about ten deep.
_DEEPEST = 100
_EMPTY = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}"/></x:xmpmeta>'
    '<?xpacket end="w"?>'
)


def updated(packet: bytes | None, width: int, height: int, provenance: dict[str, Any] | None) -> bytes | None:
    """A packet for an upright picture of that size.

    Orientation and sizes, where it states them, become true; everything else stays. A provenance is
    added in an rdf:Description of its own, or replaces the one that was there.

    Returns:
        None where there is nothing to say. A packet that is not well-formed counts as none.
    """
    document = _parsed(packet)
    if document is None:
        if provenance is None:
            return None
        document = parseString(_EMPTY)  # noqa: S318 - our own text
    for space, name, value in (
        (_TIFF, "Orientation", 1),
        (_TIFF, "ImageWidth", width),
        (_TIFF, "ImageLength", height),
        (_EXIF, "PixelXDimension", width),
        (_EXIF, "PixelYDimension", height),
    ):
        _set_where_stated(document, space, name, str(value))
    if provenance is not None:
        _add_provenance(document, provenance)
    # An XML declaration, which a whole document would begin with, has no place in a packet.
    text = "".join(node.toxml() for node in document.childNodes).replace("\ufeff", "")
    # libvips puts it into a PNG's zTXt, which is Latin-1; plain ASCII is the same in every encoding.
    return text.encode("ascii", "xmlcharrefreplace")


def provenance_in(packet: bytes | None) -> dict[str, Any] | None:
    """The provenance in a packet, or None."""
    document = _parsed(packet)
    if document is None:
        return None
    for description in document.getElementsByTagNameNS(_RDF, "Description"):
        if description.hasAttributeNS(PROVENANCE, "provenance"):
            try:
                record = json.loads(description.getAttributeNS(PROVENANCE, "provenance"))
            except (ValueError, RecursionError):
                return None
            return record if isinstance(record, dict) else None
    return None


def _parsed(packet: bytes | None) -> Document | None:
    """The packet as a tree if it is safe, well-formed and holds an rdf:RDF."""
    if packet is None or len(packet) > _LARGEST:
        return None
    try:
        text = packet.decode("utf-8-sig").strip("\0 \t\r\n")
        # Only a document type can declare entities, and so the ones that grow without end.
        if "<!DOCTYPE" in text or text.count("<") + text.count("=") > _MOST_NODES:
            return None
        document = parseString(text)  # noqa: S318 - no entities get here
    except (ExpatError, ValueError):
        return None
    return document if not _too_deep(document) and document.getElementsByTagNameNS(_RDF, "RDF") else None


def _too_deep(document: Document) -> bool:
    level: list[Any] = list(document.childNodes)
    for _ in range(_DEEPEST):
        level = [child for node in level for child in node.childNodes]
    return bool(level)


def _set_where_stated(document: Document, space: str, name: str, value: str) -> None:
    for description in document.getElementsByTagNameNS(_RDF, "Description"):
        if (attribute := description.getAttributeNodeNS(space, name)) is not None:
            attribute.value = value
    for element in document.getElementsByTagNameNS(space, name):
        while element.firstChild:
            element.removeChild(element.firstChild)
        element.appendChild(document.createTextNode(value))


def _add_provenance(document: Document, provenance: dict[str, Any]) -> None:
    for description in document.getElementsByTagNameNS(_RDF, "Description"):
        if description.hasAttributeNS(PROVENANCE, "provenance"):
            description.removeAttributeNS(PROVENANCE, "provenance")
            if _says_nothing(description) and description.parentNode is not None:
                description.parentNode.removeChild(description)
    root = document.getElementsByTagNameNS(_RDF, "RDF")[0]
    rdf = f"{root.prefix}:" if root.prefix else ""
    own = document.createElementNS(_RDF, f"{rdf}Description")
    own.setAttributeNS(_XMLNS, "xmlns:r", _RDF)
    own.setAttributeNS(_RDF, "r:about", "")
    own.setAttributeNS(_XMLNS, "xmlns:srup", PROVENANCE)
    own.setAttributeNS(PROVENANCE, "srup:provenance", json.dumps(provenance))
    root.appendChild(own)


def _says_nothing(description: Element) -> bool:
    attributes = {(each.namespaceURI, each.localName) for each in description.attributes.values()}
    stated = {(space, name) for space, name in attributes if space != _XMLNS} - {(_RDF, "about")}
    return not stated and not description.getElementsByTagName("*")
