"""XMP packets (ISO 16684-1): their properties, read and set. A packet is a stranger's text.

So it is parsed with limits, and with no entities: a DOCTYPE is refused before anything in it is read. Setting
properties changes only the bytes that they stand in: what else is in a packet stays as its writer spelled it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

from aigciqa.errors import InputError

#: A property's namespace and name.
Property: TypeAlias = "tuple[str, str]"

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
XMP = "http://ns.adobe.com/xap/1.0/"
#: A longer packet is not parsed.
MAX_PACKET = 2**20
#: What is nested deeper is no packet.
_MAX_DEPTH = 100
_XML = "http://www.w3.org/XML/1998/namespace"
#: A new packet around its description.
_NEW_PACKET = (
    f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="{RDF}">
""".encode(),
    b"""</rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>""",
)
_START_TAG = re.compile(rb"""<[^\s/>]+(?:\s+[^\s=]+\s*=\s*(?:"[^"]*"|'[^']*'))*\s*(/?)>""")
_ATTRIBUTE = re.compile(rb"""(?<!\s)\s+([^\s=]+)\s*=\s*(?:"[^"]*"|'[^']*')""")


@dataclass(eq=False, slots=True)
class _Element:
    """An element of a packet, and where its bytes are."""

    name: Property
    attributes: list[tuple[Property, str, int, int]]  # name, value, start and end with the blanks before it
    start: int
    tag_end: int
    is_empty: bool  # <x/>
    end: int = 0
    texts: list[str] = field(default_factory=list)
    children: list[_Element] = field(default_factory=list)


def xmp_beside(image: str) -> str:
    """The path of the file with an image's properties beside it: `cat.png.xmp` for `cat.png`."""
    return f"{image}.xmp"


def read_properties(packet: bytes) -> dict[Property, tuple[str, ...]] | None:
    """The properties of a packet: (namespace, name) -> its text, or the texts of its list; structures are left out.

    None if it is damaged, has a DOCTYPE, or is longer than `MAX_PACKET`.
    """
    try:
        rdf = _rdf_of(packet)
    except InputError:
        return None
    found: dict[Property, tuple[str, ...]] = {}
    for description in _descriptions(rdf):
        for name, value, _, _ in description.attributes:
            if name[0] not in (RDF, _XML):
                found.setdefault(name, (value,))
        for child in description.children:
            if texts := _texts(child):
                found.setdefault(child.name, texts)
    return found


def set_properties(packet: bytes | None, values: Mapping[Property, str], prefixes: Mapping[str, str]) -> bytes:
    """A packet with properties set to texts, in place of what it has of them; all else in it stays.

    Args:
        packet: a new one is made if it is None.
        values: what to set.
        prefixes: namespace -> its prefix, of all namespaces in `values`.

    Raises:
        InputError: the packet is damaged, has a DOCTYPE, or is longer than `MAX_PACKET`.
    """
    if packet is None:
        return _description("", values, prefixes).join(_NEW_PACKET)
    rdf = _rdf_of(packet)
    descriptions = list(_descriptions(rdf))
    subjects = (value for each in descriptions for name, value, _, _ in each.attributes if name == (RDF, "about"))
    added = _description(next(subjects, ""), values, prefixes)
    cuts = sorted(cut for each in descriptions for cut in _places(each, values))
    parts, start = [], 0
    for first, last in cuts:
        parts.append(packet[start:first])
        start = last
    if rdf.is_empty:
        name = packet[rdf.start + 1 : rdf.tag_end].split(maxsplit=1)[0].rstrip(b"/>")
        parts += [packet[start : rdf.tag_end - 2], b">", added, b"</", name, b">", packet[rdf.end :]]
    else:
        closing = packet.rindex(b"</", 0, rdf.end)
        parts += [packet[start:closing], added, packet[closing:]]
    return b"".join(parts)


def _description(about: str, values: Mapping[Property, str], prefixes: Mapping[str, str]) -> bytes:
    """The description of a subject, with properties."""
    lines = [f'<rdf:Description xmlns:rdf="{RDF}" rdf:about={quoteattr(about)}']
    lines += [f"xmlns:{prefixes[space]}={quoteattr(space)}" for space in dict.fromkeys(space for space, _ in values)]
    lines += [f"{prefixes[space]}:{name}={quoteattr(text)}" for (space, name), text in values.items()]
    return ("\n  ".join(lines) + "/>").encode()


def _rdf_of(packet: bytes) -> _Element:
    """The element rdf:RDF of a packet, parsed."""
    if len(packet) > MAX_PACKET:
        raise InputError(f"its XMP has {len(packet):,} bytes; more than {MAX_PACKET:,} are not read")
    root = _Element(("", ""), [], 0, 0, False)
    opened = [root]
    parser = expat.ParserCreate("utf-8", namespace_separator=" ")
    parser.ordered_attributes = True
    parser.buffer_text = True

    def refuse(*_: object) -> None:
        raise InputError("its XMP has a DOCTYPE, which no XMP has")

    def begin(name: str, attributes: list[str]) -> None:
        if len(opened) > _MAX_DEPTH:
            raise InputError("its XMP is nested too deeply")
        start = parser.CurrentByteIndex
        tag = _START_TAG.match(packet, start)
        spelled = _ATTRIBUTE.finditer(packet, start, tag.end()) if tag is not None else ()
        places = [each.span() for each in spelled if not _declares(each[1])]
        if tag is None or len(places) != len(attributes) // 2:
            raise InputError("its XMP is damaged")
        pairs = zip(map(_split, attributes[::2]), attributes[1::2], places, strict=True)
        placed = [(key, value, *place) for key, value, place in pairs]
        element = _Element(_split(name), placed, start, tag.end(), bool(tag[1]))
        opened[-1].children.append(element)
        opened.append(element)

    def finish(_: str) -> None:
        element = opened.pop()
        element.end = element.tag_end if element.is_empty else packet.index(b">", parser.CurrentByteIndex) + 1

    def take(text: str) -> None:
        opened[-1].texts.append(text)

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = begin
    parser.EndElementHandler = finish
    parser.CharacterDataHandler = take
    try:
        parser.Parse(packet.rstrip(b"\0"), True)
    except expat.ExpatError as error:
        raise InputError(f"its XMP is damaged: {error}") from None
    within = root.children[0]
    for each in (within, *within.children):
        if each.name == (RDF, "RDF"):
            return each
    raise InputError("its XMP is damaged: there is no rdf:RDF")


def _split(name: str) -> Property:
    space, _, local = name.rpartition(" ")
    return space, local


def _declares(attribute: bytes) -> bool:
    return attribute == b"xmlns" or attribute.startswith(b"xmlns:")


def _descriptions(rdf: _Element) -> Iterator[_Element]:
    return (each for each in rdf.children if each.name == (RDF, "Description"))


def _texts(element: _Element) -> tuple[str, ...]:
    """The text of a property, or those of its list."""
    for child in element.children:
        if child.name in ((RDF, "Alt"), (RDF, "Seq"), (RDF, "Bag")):
            return tuple("".join(each.texts) for each in child.children if not each.children)
    return () if element.children else ("".join(element.texts),)


def _places(description: _Element, names: Mapping[Property, str]) -> list[tuple[int, int]]:
    """Where properties stand in a description: all of it, if it has nothing else."""
    attributes = [(start, end) for name, _, start, end in description.attributes if name in names]
    children = [(each.start, each.end) for each in description.children if each.name in names]
    others = sum(name[0] not in (RDF, _XML) for name, *_ in description.attributes) - len(attributes)
    if (attributes or children) and not others and len(children) == len(description.children):
        return [(description.start, description.end)]
    return attributes + children
