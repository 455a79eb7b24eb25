"""XMP packets: properties read and set, and what is refused."""

from __future__ import annotations

import random

import pytest

from aigciqa.errors import InputError
from aigciqa.images.xmp import MAX_PACKET, RDF, XMP, read_properties, set_properties

DC, OURS = "http://purl.org/dc/elements/1.1/", "urn:ours/"
PREFIXES = {XMP: "xmp", OURS: "ours"}
VALUES = {(XMP, "Rating"): "4", (OURS, "nr-lite"): "a \"<&>'"}
#: As different programs write them: properties as attributes and as elements, prefixes of their own, padding.
PACKET = b"""<?xpacket begin='\xef\xbb\xbf' id='W5M0MpCehiHzreSzNTczkc9d'?>
<x:xmpmeta xmlns:x='adobe:ns:meta/'><!-- a comment -->
<r:RDF xmlns:r='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>
 <r:Description r:about='uuid:a&amp;b' xmlns:xm='http://ns.adobe.com/xap/1.0/' xm:Rating = "2" xm:Label="a > b"
   xmlns:dc='http://purl.org/dc/elements/1.1/'>
  <dc:description><r:Alt><r:li xml:lang='x-default'>a &lt;cat&gt;&#10;&#x732b;</r:li></r:Alt></dc:description>
  <dc:subject><r:Bag><r:li>one</r:li><r:li>two</r:li></r:Bag></dc:subject>
  <dc:source>there</dc:source>
  <dc:relation r:parseType='Resource'><dc:title>of a part</dc:title></dc:relation>
 </r:Description>
 <r:Description r:about='uuid:a&amp;b' xmlns:xm='http://ns.adobe.com/xap/1.0/'><xm:Rating>3</xm:Rating></r:Description>
</r:RDF></x:xmpmeta>


<?xpacket end='w'?>"""


def test_properties_in_either_form_and_their_lists() -> None:
    assert read_properties(PACKET) == {
        (XMP, "Rating"): ("2",),
        (XMP, "Label"): ("a > b",),
        (DC, "description"): ("a <cat>\n猫",),
        (DC, "subject"): ("one", "two"),
        (DC, "source"): ("there",),
    }


def test_a_tag_of_blanks_is_read_in_linear_time() -> None:
    blanks = b" " * (MAX_PACKET // 2)  # in square time, they take an hour
    packet = PACKET.replace(b"xm:Rating = ", blanks + b"xm:Rating = ")
    assert read_properties(packet) == read_properties(PACKET)
    packet = PACKET.replace(b"<dc:source>", b"<dc:source" + blanks + b">")
    assert read_properties(packet) == read_properties(PACKET)


def test_what_is_set_takes_the_place_of_what_was_there_and_all_else_keeps_its_bytes() -> None:
    changed = set_properties(PACKET, VALUES, PREFIXES)
    before, after = read_properties(PACKET), read_properties(changed)
    assert before is not None
    assert after == before | {name: (text,) for name, text in VALUES.items()}
    assert changed.count(b"Rating") == 1
    head, _, tail = changed.partition(b"<rdf:Description")
    own = tail[: tail.index(b"/>") + 2]
    assert b'rdf:about="uuid:a&amp;b"' in own
    second = PACKET.index(b"<r:Description", PACKET.index(b"</r:Description>"))
    rest = PACKET[:second] + PACKET[PACKET.index(b"</r:Description>", second) + len(b"</r:Description>") :]
    assert head + tail.removeprefix(own) == rest.replace(b' xm:Rating = "2"', b"")


@pytest.mark.parametrize(
    "packet", [None, PACKET, f"<a:RDF xmlns:a='{RDF}'/>".encode(), f"<RDF xmlns='{RDF}' ><!-- --></RDF >\0\0".encode()]
)
def test_setting_the_same_again_changes_nothing(packet: bytes | None) -> None:
    once = set_properties(packet, VALUES, PREFIXES)
    found = read_properties(once)
    assert found is not None
    assert VALUES.items() <= {name: texts[0] for name, texts in found.items()}.items()
    assert set_properties(once, VALUES, PREFIXES) == once
    other = set_properties(once, {(OURS, "fr"): "1", (XMP, "Rating"): "1"}, PREFIXES)
    assert set_properties(set_properties(other, VALUES, PREFIXES), VALUES, PREFIXES).count(b"Rating") == 1


ENTITIES = f'<!DOCTYPE a [<!ENTITY b "{"c" * 100}"><!ENTITY d "{"&b;" * 100}">]>'.encode()
REFUSED = {
    "nothing": b"",
    "junk": b"junk",
    "entities": ENTITIES + PACKET[PACKET.index(b"<x:") :].replace(b"there", b"&d;"),
    "a DOCTYPE elsewhere": b'<!DOCTYPE a SYSTEM "http://127.0.0.1/a">' + PACKET[PACKET.index(b"<x:") :],
    "cut short": PACKET[:500],
    "no RDF": b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>",
    "RDF of no namespace": b"<RDF/>",
    "nested deeply": b"<a>" * 200_000 + b"</a>" * 200_000,
    "UTF-16": PACKET.decode().encode("utf-16"),
    "bytes that are no UTF-8": PACKET.replace(b"there", b"\xff"),
    "an unknown prefix": PACKET.replace(b"<dc:source>there</dc:source>", b"<e:source/>"),
    "an attribute twice": PACKET.replace(b"xm:Label=", b'xm:Rating="5" xm:Label='),
    "too long": PACKET.replace(b"there", b"x" * MAX_PACKET),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_packet_is_refused(name: str) -> None:
    assert read_properties(REFUSED[name]) is None
    with pytest.raises(InputError, match="its XMP"):
        set_properties(REFUSED[name], VALUES, PREFIXES)


def test_damage_is_refused_or_leaves_a_packet_that_can_be_set() -> None:
    chance = random.Random(0)
    survived = 0
    for _ in range(1500):
        packet = bytearray(PACKET)
        for _ in range(chance.randint(1, 3)):
            place = chance.randrange(len(packet))
            packet[place : place + chance.randint(0, 4)] = chance.choice(
                (b"", b"<", b">", b"'", b"/>", b"x", b" ", b"\0")
            )
        found = read_properties(bytes(packet))
        if found is None:
            continue
        survived += 1
        changed = read_properties(set_properties(bytes(packet), VALUES, PREFIXES))
        assert changed == found | {name: (text,) for name, text in VALUES.items()}
    assert survived > 100
