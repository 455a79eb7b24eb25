"""Prompts, seeds and models from files as each tool writes them, and from damaged ones."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

import aigciqa
from aigciqa import GenerationParameters, ImageError, read_generation
from aigciqa.images.generation.parameters import FIELDS, MAX_PROMPT, MAX_TEXT
from aigciqa.images.generation.tools import read_text

PICTURE = Image.new("RGB", (8, 8))
SETTINGS = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 42, Size: 512x512, Model hash: 31e35c80fc, Model: sdxl"
A1111 = f"a red fox\nNegative prompt: blurry\n{SETTINGS}, Version: v1.9.4"
FOX = GenerationParameters("a red fox", "blurry", 42, 20, "Euler a", 7.0, "sdxl", (), "AUTOMATIC1111")


def saved(image_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    PICTURE.save(file, image_format, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(*chunks: bytes, **texts: str) -> bytes:
    """A PNG with texts as Pillow writes them, and with chunks behind them."""
    info = PngImagePlugin.PngInfo()
    for keyword, text in texts.items():
        info.add_text(keyword, text)
    data = saved("PNG", pnginfo=info)
    at = data.index(b"IDAT") - 4
    return data[:at] + b"".join(chunks) + data[at:]


def exif_of(tag: int, value: bytes, order: str = ">", kind: int = 7, inner: bool = True) -> bytes:
    """EXIF data with one tag, in the directory of EXIF or in the first one."""
    head = b"MM\0*\0\0\0\x08" if order == ">" else b"II*\0\x08\0\0\0"
    entry = struct.pack(order + "HHHII", 1, tag, kind, len(value), 44 if inner else 26)
    pointer = struct.pack(order + "HHHIII", 1, 0x8769, 4, 1, 26, 0)
    return head + (pointer + entry if inner else entry) + bytes(4) + value


def exif_comment(text: str) -> bytes:
    return b"Exif\0\0" + exif_of(0x9286, b"UNICODE\0" + text.encode("utf-16-be"))


class TestParameters:
    def test_cells_of_nothing(self) -> None:
        assert GenerationParameters().cells() == dict.fromkeys(FIELDS)
        assert not GenerationParameters(generator="ComfyUI").tells()

    def test_cells(self) -> None:
        cells = GenerationParameters("a", "b", 7, 20, "euler", 4.5, "m", ("x", "y"), "ComfyUI", True).cells()
        assert list(cells) == list(FIELDS)
        assert list(cells.values()) == ["a", "b", "7", "20", "euler", "4.5", "m", "x, y", "ComfyUI", "yes"]

    def test_control_characters_are_dropped_and_lines_kept(self) -> None:
        text = f"a\x00 red\x1b[31m\r\nfo\x85x\u2028\nNegative prompt: \ud800\n{SETTINGS}"
        found = read_text(text)
        assert found is not None
        assert (found.prompt, found.negative_prompt) == ("a red[31m\nfox", None)

    @pytest.mark.parametrize(
        ("seed", "expected"),
        [
            ("42", 42),
            (str(2**64 - 1), 2**64 - 1),
            (str(2**64), None),
            ("-1", None),
            ("9" * 10**6, None),
            ("NaN", None),
            ("1e3", None),
            ("٣", 3),
        ],
    )
    def test_seeds(self, seed: str, expected: int | None) -> None:
        found = read_text(SETTINGS.replace("42", seed))
        assert found is not None
        assert found.seed == expected

    def test_a_longer_prompt_is_none(self) -> None:
        for length, expected in ((MAX_PROMPT, MAX_PROMPT), (MAX_PROMPT + 1, 0)):
            found = read_text(f"{'x' * length}\n{SETTINGS}")
            assert found is not None
            assert len(found.prompt or "") == expected


class TestAutomatic1111:
    def test_png(self) -> None:
        assert read_generation(png(parameters=A1111)) == FOX

    def test_lines_tags_and_quotes(self) -> None:
        text = (
            "a fox, <lora:ink_v2:0.8>\nin the snow, <lyco:fur:1> (sharp:1.2)\n\nBREAK a hill\n"
            "Negative prompt: blurry, \ntext: 3\n"
            "Steps: 30, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 5.5, Seed: 2914718254, Size: 832x1216, "
            "Model hash: 67ab2fd8ec, Model: ponyXL_v6, VAE: sdxl_vae.safetensors, Denoising strength: 0.4, "
            'ADetailer prompt: "a face, Seed: 9, \\"sharp\\"", Hires steps: 12, Lora hashes: "ink_v2: 1a2b, fur: 3c4d, '
            'eyes: 5e6f", Hashes: {"vae": "235745af8d", "model": "67ab2fd8ec"}, Version: f2.0.1v1.10.1-previous-659'
        )
        assert read_text(text) == GenerationParameters(
            "a fox, <lora:ink_v2:0.8>\nin the snow, <lyco:fur:1> (sharp:1.2)\n\nBREAK a hill",
            "blurry, \ntext: 3",
            2914718254,
            30,
            "DPM++ 2M",
            5.5,
            "ponyXL_v6",
            ("ink_v2", "fur", "eyes"),
            "Forge",
        )

    @pytest.mark.parametrize(
        ("more", "generator"),
        [
            (", Version: v1.10.1", "AUTOMATIC1111"),
            ("", "AUTOMATIC1111"),
            (", Version: f1.7.0-v1.10.1RC-latest-2185-ge01e3ed8", "Forge"),
            (", Version: neo", "Forge"),
            (", App: SD.Next, Version: 61ebe90, Pipeline: StableDiffusionXLPipeline", "SD.Next"),
            (", Version: Fooocus v2.2.0", "Fooocus"),
            (", Version: ComfyUI", "ComfyUI"),
            (', Civitai resources: [{"type":"checkpoint","modelVersionId":128078}]', "Civitai"),
        ],
    )
    def test_generators(self, more: str, generator: str) -> None:
        found = read_text(f"a red fox\n{SETTINGS}{more}")
        assert found is not None
        assert found.generator == generator

    def test_guidance_of_distilled_models(self) -> None:
        line = "Steps: 20, Sampler: Euler, Distilled CFG Scale: 3.5, CFG scale: {}, Seed: 1"
        assert [read_text(line.format(scale)).guidance for scale in ("1", "2")] == [3.5, 2.0]  # type: ignore[union-attr]

    def test_parts(self) -> None:
        no_model = read_text("Steps: 20, Sampler: Euler, Seed: 1, Model hash: 31e35c80fc")
        assert no_model == GenerationParameters(None, None, 1, 20, "Euler", None, "31e35c80fc", (), "AUTOMATIC1111")
        only_negative = read_text("a fox\nNegative prompt: blurry")
        assert only_negative == GenerationParameters("a fox", "blurry", generator="AUTOMATIC1111")

    @pytest.mark.parametrize("text", ["", "a caption", "Steps: two to the door", '"a": 1', "[1, 2]", "{}", "{", "NaN"])
    def test_other_texts(self, text: str) -> None:
        assert read_text(text) is None
        assert read_generation(png(parameters=text, Comment=text)) == GenerationParameters()


class TestWhereTextsAre:
    """The same text in every place, of every format, in which tools write it."""

    def test_png_chunks(self) -> None:
        text = A1111.encode()
        deflated = zlib.compress(text)
        for content in (
            chunk(b"tEXt", b"parameters\0" + text),
            chunk(b"zTXt", b"parameters\0\0" + deflated),
            chunk(b"iTXt", b"parameters\0\0\0\0\0" + text),
            chunk(b"iTXt", b"parameters\0\1\0en\0Parameter\0" + deflated),
            chunk(b"eXIf", exif_comment(A1111)[6:]),
        ):
            assert read_generation(png(content)) == FOX
            behind = png()
            assert read_generation(behind[:-12] + content + behind[-12:]) == FOX

    def test_texts_that_are_not_ascii(self) -> None:
        text = A1111.replace("red fox", "fuchs, schön, 狐, 🦊")
        data = [png(parameters=text), png(chunk(b"tEXt", b"parameters\0" + text.encode()))]
        data.append(saved("JPEG", exif=exif_comment(text)))
        assert [read_generation(each).prompt for each in data] == ["a fuchs, schön, 狐, 🦊"] * 3
        latin = png(chunk(b"tEXt", b"parameters\0" + A1111.replace("red", "größer").encode("latin-1")))
        assert read_generation(latin).prompt == "a größer fox"

    @pytest.mark.parametrize("image_format", ["JPEG", "WEBP", "AVIF", "PNG", "TIFF"])
    def test_exif(self, image_format: str) -> None:
        assert read_generation(saved(image_format, exif=exif_comment(A1111))) == FOX

    @pytest.mark.parametrize(
        "comment",
        [
            b"UNICODE\0" + A1111.encode("utf-16-be"),
            b"UNICODE\0" + A1111.encode("utf-16-le"),
            b"UNICODE\0" + A1111.encode("utf-16"),
            b"UNICODE\0" + A1111.encode(),
            b"ASCII\0\0\0" + A1111.encode(),
            bytes(8) + A1111.encode() + b"\0",
            A1111.encode(),
        ],
    )
    def test_user_comments(self, comment: bytes) -> None:
        for order in "<>":
            assert read_generation(saved("JPEG", exif=b"Exif\0\0" + exif_of(0x9286, comment, order))) == FOX

    def test_a_comment_without_ascii_is_in_the_order_of_its_exif(self) -> None:
        text = "狐" * 300
        for order, name in ((">", "utf-16-be"), ("<", "utf-16-le")):
            tiff = exif_of(0x9286, b"UNICODE\0" + text.encode(name), order)
            from aigciqa.images.generation.exif import texts

            assert list(texts(tiff)) == [("usercomment", text)]

    def test_image_description_and_comment(self) -> None:
        described = b"Exif\0\0" + exif_of(0x010E, A1111.encode() + b"\0", kind=2, inner=False)
        assert read_generation(saved("JPEG", exif=described)) == FOX
        assert read_generation(saved("JPEG", comment=A1111.encode())) == FOX

    @pytest.mark.parametrize("image_format", ["JPEG", "WEBP", "AVIF", "PNG", "TIFF"])
    def test_xmp(self, image_format: str) -> None:
        packet = xmp(
            '<exif:UserComment><rdf:Alt><rdf:li xml:lang="x-default">{}</rdf:li></rdf:Alt></exif:UserComment>', A1111
        )
        if image_format == "PNG":
            data = png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet))
        elif image_format == "TIFF":
            data = saved("TIFF", tiffinfo={700: packet})
        else:
            data = saved(image_format, xmp=packet)
        assert read_generation(data) == FOX

    @pytest.mark.parametrize("name", ["fox.txt", "fox.json", "fox.png.txt", "fox.png.json"])
    def test_sidecars(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "fox.png").write_bytes(png())
        in_json = {
            "prompt": "a red fox",
            "negative_prompt": "blurry",
            "seed": 42,
            "num_inference_steps": 20,
            "sampler_name": "Euler a",
            "guidance_scale": 7.0,
            "model": "some/sdxl.safetensors",
            "software": "AUTOMATIC1111",
        }
        (tmp_path / name).write_text(A1111 if name.endswith("txt") else json.dumps(in_json))
        assert read_generation(tmp_path / "fox.png") == FOX
        assert read_generation((tmp_path / "fox.png").read_bytes()) == GenerationParameters()

    def test_the_file_counts_before_its_sidecars(self, tmp_path: Path) -> None:
        (tmp_path / "fox.png").write_bytes(png(parameters=A1111))
        (tmp_path / "fox.txt").write_text("a blue fox\n" + SETTINGS)
        assert read_generation(tmp_path / "fox.png") == FOX

    def test_a_caption_is_no_prompt(self, tmp_path: Path) -> None:
        (tmp_path / "fox.png").write_bytes(png())
        (tmp_path / "fox.txt").write_text("a photo of a fox")
        (tmp_path / "fox.json").write_text('{"caption": "a photo of a fox", "tags": ["fox"]}')
        (tmp_path / "fox.png.json").mkdir()
        (tmp_path / "fox.png.txt").write_bytes(A1111.encode() + b" " * MAX_TEXT)
        assert read_generation(tmp_path / "fox.png") == GenerationParameters()

    def test_files_that_cannot_be_read(self, tmp_path: Path) -> None:
        for name, reason in (
            ("none.png", "No such file"),
            ("", "not a regular file|No such file"),
            ("a\0b.png", "null"),
        ):
            with pytest.raises(ImageError, match=reason):
                read_generation(f"{tmp_path}/{name}")

    def test_a_file_on_disk_is_read_as_its_bytes(self, tmp_path: Path) -> None:
        file = io.BytesIO()
        Image.effect_noise((400, 400), 90).save(file, "PNG")
        data = file.getvalue()
        assert len(data) > 2**17
        path = tmp_path / "fox.png"
        path.write_bytes(data[:-12] + chunk(b"tEXt", b"parameters\0" + A1111.encode()) + data[-12:])
        assert read_generation(path) == FOX
        path.write_bytes(path.read_bytes()[:-30])
        assert read_generation(path) == GenerationParameters()


def xmp(properties: str, text: str) -> bytes:
    """A packet with properties, in which `{}` stands for a text."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", "&#10;")
    names = {
        "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
        "exif": "http://ns.adobe.com/exif/1.0/",
        "dc": "http://purl.org/dc/elements/1.1/",
        "iptc": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
        "xmp": "http://ns.adobe.com/xap/1.0/",
    }
    spaces = "".join(f' xmlns:{name}="{uri}"' for name, uri in names.items())
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF{spaces}><rdf:Description rdf:about="">'
        f"{properties.format(escaped)}</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


def node(name: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": name, "inputs": inputs, "_meta": {"title": name}}


#: ComfyUI's own example: text to image.
GRAPH = {
    "3": node(
        "KSampler",
        seed=156680208700286,
        steps=20,
        cfg=8.0,
        sampler_name="euler",
        scheduler="normal",
        denoise=1,
        model=["4", 0],
        positive=["6", 0],
        negative=["7", 0],
        latent_image=["5", 0],
    ),
    "4": node("CheckpointLoaderSimple", ckpt_name="SD1.5/v1-5-pruned-emaonly.safetensors"),
    "5": node("EmptyLatentImage", width=512, height=512, batch_size=1),
    "6": node("CLIPTextEncode", text="a red fox", clip=["4", 1]),
    "7": node("CLIPTextEncode", text="text, watermark", clip=["4", 1]),
    "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
    "9": node("SaveImage", filename_prefix="ComfyUI", images=["8", 0]),
}
OF_GRAPH = GenerationParameters(
    "a red fox", "text, watermark", 156680208700286, 20, "euler", 8.0, "v1-5-pruned-emaonly", (), "ComfyUI"
)
FLUX = {
    "5": node("EmptySD3LatentImage", width=1024, height=1024, batch_size=1),
    "6": node("CLIPTextEncode", text=["40", 0], clip=["11", 0]),
    "8": node("VAEDecode", samples=["13", 0], vae=["10", 0]),
    "9": node("SaveImage", filename_prefix="ComfyUI", images=["8", 0]),
    "10": node("VAELoader", vae_name="ae.safetensors"),
    "11": node("DualCLIPLoader", clip_name1="t5xxl_fp16.safetensors", clip_name2="clip_l.safetensors", type="flux"),
    "12": node("UNETLoader", unet_name="flux1-dev.safetensors", weight_dtype="default"),
    "13": node(
        "SamplerCustomAdvanced",
        noise=["25", 0],
        guider=["22", 0],
        sampler=["16", 0],
        sigmas=["17", 0],
        latent_image=["5", 0],
    ),
    "16": node("KSamplerSelect", sampler_name="dpmpp_2m"),
    "17": node("BasicScheduler", scheduler="simple", steps=28, denoise=1.0, model=["30", 0]),
    "22": node("BasicGuider", model=["30", 0], conditioning=["26", 0]),
    "25": node("RandomNoise", noise_seed=["41", 0]),
    "26": node("FluxGuidance", guidance=3.5, conditioning=["6", 0]),
    "30": node("ModelSamplingFlux", max_shift=1.15, base_shift=0.5, width=1024, height=1024, model=["33", 0]),
    "32": node("LoraLoaderModelOnly", lora_name="style/ink.safetensors", strength_model=0.8, model=["12", 0]),
    "33": node("LoraLoaderModelOnly", lora_name="fur.safetensors", strength_model=1.0, model=["34", 0]),
    "34": node("LoraLoaderModelOnly", lora_name="unused.safetensors", strength_model=0, model=["32", 0]),
    "40": node("StringConcatenate", string_a="a red fox", string_b=["42", 0], delimiter=", "),
    "41": node("PrimitiveInt", value=7, control_after_generate="fixed"),
    "42": node("PrimitiveStringMultiline", value="in the snow"),
}


def graph_read(graph: dict[str, Any]) -> GenerationParameters:
    found = read_text(json.dumps(graph))
    assert found is not None
    return found


def changed(graph: dict[str, Any], **nodes: Any) -> dict[str, Any]:
    """A graph with other inputs of nodes, or with other nodes."""
    copy = json.loads(json.dumps(graph))
    for name, new in nodes.items():
        key = name.removeprefix("n")
        if "class_type" in new:
            copy[key] = new
        else:
            copy[key]["inputs"].update(new)
    return copy  # type: ignore[no-any-return]


class TestComfyUI:
    def test_png(self) -> None:
        assert (
            read_generation(png(prompt=json.dumps(GRAPH), workflow=json.dumps({"nodes": [], "links": []}))) == OF_GRAPH
        )

    def test_exif_of_webp_and_jpeg(self) -> None:
        for image_format in ("WEBP", "JPEG"):
            exif = Image.Exif()
            exif[0x0110] = "prompt:" + json.dumps(GRAPH)
            exif[0x010F] = 'workflow:{"nodes": [], "links": []}'
            assert read_generation(saved(image_format, exif=exif)) == OF_GRAPH

    def test_beside_a_text_of_automatic1111(self) -> None:
        found = read_generation(png(parameters=f"a red fox\n{SETTINGS}", prompt=json.dumps(GRAPH)))
        assert (found.model, found.generator) == ("sdxl", "ComfyUI")

    def test_a_number_that_is_none(self) -> None:
        text = json.dumps(GRAPH).replace(
            '"steps": 20', '"steps": NaN, "is_changed": [NaN, Infinity, ' + "9" * 10**5 + "]"
        )
        found = read_text(text)
        assert found is not None
        assert (found.prompt, found.steps) == ("a red fox", None)

    def test_parts_of_a_custom_sampler(self) -> None:
        assert graph_read(FLUX) == GenerationParameters(
            "a red fox, in the snow", None, 7, 28, "dpmpp_2m", 3.5, "flux1-dev", ("ink", "fur"), "ComfyUI"
        )

    def test_a_guider_with_its_own_scale(self) -> None:
        guider = node("CFGGuider", cfg=4.0, model=["30", 0], positive=["26", 0], negative=["43", 0])
        found = graph_read(changed(FLUX, n22=guider, n43=node("CLIPTextEncode", text="blurry", clip=["11", 0])))
        assert (found.guidance, found.prompt, found.negative_prompt) == (4.0, "a red fox, in the snow", "blurry")

    def test_conditioning_set_to_zero_is_no_prompt(self) -> None:
        zero = node("ConditioningZeroOut", conditioning=["6", 0])
        found = graph_read(changed(GRAPH, n3={"negative": ["20", 0]}, n20=zero))
        assert (found.prompt, found.negative_prompt) == ("a red fox", None)

    def test_the_first_sampler_counts(self) -> None:
        """As with AUTOMATIC1111's hires fix: what it is sampled again with does not."""
        again = node(
            "KSampler",
            seed=1,
            steps=9,
            cfg=3.0,
            sampler_name="dpmpp_2m",
            scheduler="normal",
            denoise=0.5,
            model=["4", 0],
            positive=["22", 0],
            negative=["7", 0],
            latent_image=["21", 0],
        )
        two = changed(
            GRAPH,
            n20=again,
            n21=node("LatentUpscale", samples=["3", 0], upscale_method="nearest-exact", width=1024, height=1024),
            n22=node("CLIPTextEncode", text="details", clip=["4", 1]),
            n8={"samples": ["20", 0]},
        )
        assert graph_read(two) == OF_GRAPH
        by_pixels = changed(
            two,
            n21=node("VAEEncode", pixels=["24", 0], vae=["4", 2]),
            n24=node("ImageUpscaleWithModel", upscale_model=["25", 0], image=["26", 0]),
            n25=node("UpscaleModelLoader", model_name="RealESRGAN_x4.pth"),
            n26=node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        )
        assert graph_read(by_pixels) == OF_GRAPH

    def test_what_led_to_no_picture_does_not_count(self) -> None:
        other = {f"1{key}": json.loads(json.dumps(each)) for key, each in GRAPH.items() if key in "36"}
        other["13"]["inputs"] |= {"seed": 1, "positive": ["16", 0]}
        other["16"]["inputs"]["text"] = "another"
        assert graph_read(other | GRAPH) == OF_GRAPH

    def test_control_nets_combinations_and_both_encoders(self) -> None:
        control = node(
            "ControlNetApplyAdvanced", positive=["30", 0], negative=["7", 0], control_net=["31", 0], image=["32", 0]
        )
        combined = changed(
            GRAPH,
            n3={"positive": ["29", 0], "negative": ["29", 1]},
            n29=control,
            n30=node("ConditioningCombine", conditioning_1=["33", 0], conditioning_2=["6", 0]),
            n31=node("ControlNetLoader", control_net_name="canny.safetensors"),
            n32=node("LoadImage", image="edges.png"),
            n33=node("CLIPTextEncodeSDXL", text_g="a hill", text_l="a hill", width=1024, clip=["4", 1]),
        )
        found = graph_read(combined)
        assert found.prompt is not None
        assert set(found.prompt.split("\n")) == {"a red fox", "a hill"}
        assert found.negative_prompt == "text, watermark"

    def test_loaders_that_do_it_all(self) -> None:
        loader = node(
            "Efficient Loader",
            ckpt_name={"content": "sdxl.safetensors", "image": None},
            lora_name="None",
            positive="a red fox",
            negative="blurry",
            lora_stack=["21", 0],
        )
        stack = node(
            "CR LoRA Stack",
            switch_1="On",
            lora_name_1="ink.safetensors",
            model_weight_1=1,
            switch_2="Off",
            lora_name_2="no.safetensors",
        )
        power = node("Power Lora Loader (rgthree)", model=["4", 0], lora_1={"on": True, "lora": "a.safetensors"})
        power["inputs"]["lora_2"] = {"on": False, "lora": "b.safetensors", "strength": 1}
        graph = changed(
            GRAPH, n4=loader, n21=stack, n22=power, n3={"model": ["22", 0], "positive": ["4", 1], "negative": ["4", 2]}
        )
        found = graph_read(graph)
        assert (found.prompt, found.negative_prompt, found.model) == ("a red fox", "blurry", "sdxl")
        assert found.loras == ("ink", "a")

    def test_an_interface_to_a_service(self) -> None:
        graph = {
            "1": node("FluxProUltraImageNode", prompt="a red fox", seed=3, aspect_ratio="3:2"),
            "2": node("PreviewImage", images=["1", 0]),
        }
        assert graph_read(graph) == GenerationParameters("a red fox", seed=3, generator="ComfyUI")

    def test_without_a_sampler(self) -> None:
        graph = {"1": node("LoadImage", image="a.png"), "2": node("SaveImage", images=["1", 0])}
        assert graph_read(graph) == GenerationParameters(generator="ComfyUI")

    def test_text_of_civitai(self) -> None:
        extra = {
            "prompt": "a red fox",
            "negativePrompt": "blurry",
            "seed": 5,
            "steps": 25,
            "cfgScale": 6,
            "sampler": "Euler",
        }
        graph = {**GRAPH, "extraMetadata": json.dumps(extra)}
        expected = GenerationParameters("a red fox", "blurry", 5, 25, "Euler", 6.0, generator="Civitai")
        assert read_generation(saved("JPEG", exif=exif_comment(json.dumps(graph)))) == expected

    def test_circles_and_what_is_not_there(self) -> None:
        for graph in (
            changed(GRAPH, n6=node("ConditioningCombine", a=["6", 0], b=["7", 0], c=["99", 0])),
            changed(GRAPH, n3={"latent_image": ["8", 0], "model": ["3", 0]}),
            changed(GRAPH, n3={"seed": ["20", 0]}, n20=node("Reroute", value=["20", 0])),
            changed(GRAPH, n5={"image": ["9", 0]}),
            {key: each for key, each in GRAPH.items() if key not in "4567"},
            {key: node("KSampler", **{name: [key, 0] for name in each["inputs"]}) for key, each in GRAPH.items()},
        ):
            assert graph_read(graph).generator == "ComfyUI"

    @pytest.mark.parametrize("along", ["model", "conditioning", "image", "value"])
    def test_long_chains(self, along: str) -> None:
        chain = {str(100 + number): node("Reroute", **{along: [str(101 + number), 0]}) for number in range(10_000)}
        last = {"model": "4", "conditioning": "6", "image": "8", "value": "20"}[along]
        chain["10099"] = node("Reroute", **{along: [last, 0]})
        start = {
            "model": {"n3": {"model": ["100", 0]}},
            "conditioning": {"n3": {"positive": ["100", 0]}},
            "image": {"n9": {"images": ["100", 0]}},
            "value": {"n3": {"seed": ["100", 0]}, "n20": node("PrimitiveInt", value=156680208700286)},
        }[along]
        assert graph_read(changed(GRAPH, **start) | chain) == OF_GRAPH

    def test_texts_that_double(self) -> None:
        doubling = {
            str(100 + number): node("Join", string_a=[str(101 + number), 0], string_b="") for number in range(60)
        }
        for each in doubling.values():
            each["inputs"]["string_b"] = each["inputs"]["string_a"]
            each["inputs"]["string_c"] = "x"
        doubling["160"] = node("Join", string_a="fox")
        assert graph_read(changed(GRAPH, n6={"text": ["100", 0]}) | doubling).seed == 156680208700286


def workflow_of(graph: dict[str, Any], widgets: dict[str, list[Any]], named: bool = False) -> dict[str, Any]:
    """The workflow of a graph, as ComfyUI's canvas saves it."""
    nodes, links = [], []
    for key, each in graph.items():
        inputs: list[dict[str, Any]] = []
        for name, value in each["inputs"].items():
            if isinstance(value, list):
                links.append([len(links) + 1, int(value[0]), value[1], int(key), len(inputs), "ANY"])
                inputs.append({"name": name, "type": "ANY", "link": len(links)})
            elif named:
                inputs.append({"name": name, "type": "ANY", "link": None, "widget": {"name": name}})
        nodes.append(
            {"id": int(key), "type": each["class_type"], "mode": 0, "inputs": inputs, "widgets_values": widgets[key]}
        )
    return {"last_node_id": 9, "nodes": nodes, "links": links, "version": 0.4}


WIDGETS = {
    "3": [156680208700286, "randomize", 20, 8.0, "euler", "normal", 1],
    "4": ["v1-5-pruned-emaonly.safetensors"],
    "5": [512, 512, 1],
    "6": ["a red fox"],
    "7": ["text, watermark"],
    "8": [],
    "9": ["ComfyUI"],
}


class TestWorkflow:
    @pytest.mark.parametrize("named", [False, True])
    def test_alone(self, named: bool) -> None:
        assert read_generation(png(workflow=json.dumps(workflow_of(GRAPH, WIDGETS, named)))) == OF_GRAPH

    def test_links_as_objects(self) -> None:
        workflow = workflow_of(GRAPH, WIDGETS)
        workflow["links"] = [
            {"id": link[0], "origin_id": link[1], "origin_slot": link[2], "target_id": link[3]}
            for link in workflow["links"]
        ]
        assert graph_read(workflow) == OF_GRAPH

    def test_nodes_that_are_switched_off(self) -> None:
        lora = changed(GRAPH, n3={"model": ["10", 0]}, n10=node("LoraLoaderModelOnly", model=["4", 0]))
        workflow = workflow_of(lora, {**WIDGETS, "10": ["ink.safetensors", 1.0]})
        assert graph_read(workflow).loras == ("ink",)
        workflow["nodes"][-1]["mode"] = 4
        assert (graph_read(workflow).loras, graph_read(workflow).model) == ((), "v1-5-pruned-emaonly")
        workflow["nodes"][-1]["mode"] = 2
        assert (graph_read(workflow).loras, graph_read(workflow).model) == ((), None)


class TestInvokeAI:
    def test_metadata(self) -> None:
        metadata = {
            "app_version": "5.6.0",
            "generation_mode": "sdxl_txt2img",
            "positive_prompt": "a red fox",
            "negative_prompt": "blurry",
            "width": 1024,
            "height": 1024,
            "seed": 2914718254,
            "rand_device": "cpu",
            "cfg_scale": 5.5,
            "cfg_rescale_multiplier": 0.0,
            "steps": 30,
            "scheduler": "dpmpp_3m_k",
            "model": {"key": "1", "hash": "blake3:1", "name": "Juggernaut XL v9", "base": "sdxl", "type": "main"},
            "loras": [{"model": {"key": "2", "hash": "blake3:2", "name": "ink", "base": "sdxl"}, "weight": 0.75}],
        }
        expected = GenerationParameters(
            "a red fox", "blurry", 2914718254, 30, "dpmpp_3m_k", 5.5, "Juggernaut XL v9", ("ink",), "InvokeAI"
        )
        assert read_generation(png(invokeai_metadata=json.dumps(metadata), invokeai_graph="{}")) == expected
        metadata["model"] = {"model_name": "Juggernaut XL v9", "base_model": "sdxl", "model_type": "main"}
        metadata["loras"] = [{"lora": {"model_name": "ink", "base_model": "sdxl"}, "weight": 0.75}]
        assert read_generation(png(invokeai_metadata=json.dumps(metadata))) == expected

    def test_before_version_3(self) -> None:
        old = {
            "model": "stable diffusion",
            "model_weights": "stable-diffusion-1.5",
            "model_hash": "cc6cb27103417325ff94f52b7a5d2dde45a7515b25c255d8e396c90014281516",
            "app_id": "invoke-ai/InvokeAI",
            "app_version": "2.3.0",
            "image": {
                "prompt": [{"prompt": "a red fox [blurry] in snow", "weight": 1.0}],
                "steps": 50,
                "cfg_scale": 7.5,
                "seed": 1234,
                "type": "txt2img",
                "sampler": "k_lms",
            },
        }
        expected = GenerationParameters(
            "a red fox in snow", "blurry", 1234, 50, "k_lms", 7.5, "stable-diffusion-1.5", (), "InvokeAI"
        )
        dream = '"a red fox [blurry] in snow" -s 50 -S 1234 -W 512 -H 512 -C 7.5 -A k_lms'
        assert read_generation(png(**{"sd-metadata": json.dumps(old), "Dream": dream})) == expected
        without_model = GenerationParameters(
            "a red fox in snow", "blurry", 1234, 50, "k_lms", 7.5, generator="InvokeAI"
        )
        assert read_generation(png(Dream=dream)) == without_model


NOVELAI = {"steps": 28, "sampler": "k_euler_ancestral", "seed": 3071474384, "scale": 5.0, "uc": "lowres"}
OF_NOVELAI = GenerationParameters(
    "a red fox", "lowres", 3071474384, 28, "k_euler_ancestral", 5.0, "Stable Diffusion 1D44365E", (), "NovelAI"
)


class TestNovelAI:
    def texts(self, comment: dict[str, Any]) -> dict[str, str]:
        return {
            "Title": "AI generated image",
            "Description": "a red fox",
            "Software": "NovelAI",
            "Source": "Stable Diffusion 1D44365E",
            "Comment": json.dumps(comment),
        }

    def test_png(self) -> None:
        assert read_generation(png(**self.texts(NOVELAI))) == OF_NOVELAI

    def test_webp(self) -> None:
        comment = exif_comment(json.dumps(self.texts(NOVELAI)))
        assert read_generation(saved("WEBP", exif=comment)) == OF_NOVELAI

    def test_version_4_with_characters(self) -> None:
        fourth = {
            **NOVELAI,
            "prompt": "two foxes",
            "v4_prompt": {
                "caption": {
                    "base_caption": "two foxes",
                    "char_captions": [
                        {"char_caption": "red fox", "centers": [{"x": 0.5, "y": 0.5}]},
                        {"char_caption": "vixen"},
                    ],
                },
                "use_coords": False,
            },
            "v4_negative_prompt": {"caption": {"base_caption": "lowres, bad", "char_captions": []}},
        }
        found = read_generation(png(**self.texts(fourth)))
        assert (found.prompt, found.negative_prompt) == ("two foxes\nred fox\nvixen", "lowres, bad")


class TestOtherTools:
    def test_fooocus(self) -> None:
        text = {
            "base_model": "juggernautXL_v8Rundiffusion",
            "base_model_hash": "aeb7e9e689",
            "guidance_scale": 4.0,
            "lora_combined_1": "sd_xl_offset_example-lora_1.0 : 0.1",
            "metadata_scheme": "fooocus",
            "negative_prompt": "blurry",
            "performance": "Speed",
            "prompt": "a red fox",
            "sampler": "dpmpp_2m_sde_gpu",
            "scheduler": "karras",
            "seed": "4713328459",
            "steps": 30,
            "version": "Fooocus v2.2.0",
        }
        expected = GenerationParameters(
            "a red fox",
            "blurry",
            4713328459,
            30,
            "dpmpp_2m_sde_gpu",
            4.0,
            "juggernautXL_v8Rundiffusion",
            ("sd_xl_offset_example-lora_1.0",),
            "Fooocus",
        )
        assert read_generation(png(parameters=json.dumps(text), fooocus_scheme="fooocus")) == expected
        assert read_generation(saved("JPEG", exif=exif_comment(json.dumps(text)))) == expected

    def test_swarmui(self) -> None:
        text = {
            "sui_image_params": {
                "prompt": "a red fox",
                "model": "Flux/flux1-dev-fp8",
                "seed": 2042464333,
                "steps": 25,
                "cfgscale": 1.0,
                "width": 512,
                "sampler": "euler",
                "scheduler": "normal",
                "loras": ["style/ink"],
                "loraweights": ["1"],
                "negativeprompt": "",
                "swarm_version": "0.9.1.1",
            },
            "sui_extra_data": {"date": "2024-08-07"},
        }
        expected = GenerationParameters(
            "a red fox", None, 2042464333, 25, "euler", 1.0, "flux1-dev-fp8", ("ink",), "SwarmUI"
        )
        assert read_generation(png(parameters=json.dumps(text))) == expected

    def test_draw_things(self) -> None:
        text = {
            "c": "a red fox",
            "uc": "blurry",
            "model": "sd_xl_base_1.0_f16.ckpt",
            "lora": [{"model": "ink_lora_f16.ckpt", "weight": 0.6}],
            "sampler": "DPM++ 2M Karras",
            "scale": 5,
            "seed": 12,
            "steps": 30,
            "size": "1024x1024",
        }
        packet = xmp(
            "<exif:UserComment>{}</exif:UserComment><xmp:CreatorTool>Draw Things</xmp:CreatorTool>",
            json.dumps(text),
        )
        expected = GenerationParameters(
            "a red fox",
            "blurry",
            12,
            30,
            "DPM++ 2M Karras",
            5.0,
            "sd_xl_base_1.0_f16",
            ("ink_lora_f16",),
            "Draw Things",
        )
        assert read_generation(png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet))) == expected

    def test_a_text_for_each_parameter(self) -> None:
        texts = {
            "prompt": "a red fox",
            "negative_prompt": "blurry",
            "seed": "42",
            "num_inference_steps": "25",
            "guidance_scale": "7.5",
            "sampler_name": "euler_a",
            "use_stable_diffusion_model": "models/sd-v1-5",
        }
        expected = GenerationParameters("a red fox", "blurry", 42, 25, "euler_a", 7.5, "sd-v1-5")
        assert read_generation(png(**texts)) == expected

    @pytest.mark.parametrize(
        ("flags", "model", "seed", "negative"),
        [
            ("--ar 3:2 --tile --v 6.1 --seed 7 --no text, people", "Midjourney v6.1", 7, "text, people"),
            ("--niji 6 --stylize 250", "Midjourney niji 6", None, None),
            ("--style raw", None, None, None),
        ],
    )
    def test_midjourney(self, flags: str, model: str | None, seed: int | None, negative: str | None) -> None:
        description = f"a red fox, double--dash {flags} Job ID: 0b3c7ad8-25ef-4ae6-a3a1-4d1bfd5c4d9d"
        expected = GenerationParameters("a red fox, double--dash", negative, seed, model=model, generator="Midjourney")
        assert read_generation(png(Description=description, Author="someone")) == expected
        packet = xmp("<dc:description><rdf:Alt><rdf:li>{}</rdf:li></rdf:Alt></dc:description>", description)
        assert read_generation(saved("JPEG", xmp=packet)) == expected

    def test_a_description_is_no_prompt(self) -> None:
        assert read_generation(png(Description="a holiday -- by the sea", Author="me")) == GenerationParameters()

    @pytest.mark.parametrize("dot", ["·", "-", "._", "\u00c2\u00b7"])
    def test_names_of_dall_e(self, tmp_path: Path, dot: str) -> None:
        path = tmp_path / f"DALL{dot}E 2024-01-05 10.11.12 - A red fox in snow.png"
        path.write_bytes(png())
        assert read_generation(path) == GenerationParameters("A red fox in snow", generator="DALL-E")

    def test_iptc(self) -> None:
        packet = xmp("<iptc:AIPromptInformation>{}</iptc:AIPromptInformation>", "a red fox")
        packet = packet.replace(b' rdf:about=""', b' rdf:about="" iptc:AISystemUsed="Imagen 4"')
        assert read_generation(saved("WEBP", xmp=packet)) == GenerationParameters("a red fox", generator="Imagen 4")


def manifest(claim: bytes) -> bytes:
    """Something like content credentials: boxes, and CBOR with a claim."""
    source = b"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    action = b"qdigitalSourceType\x78" + bytes([len(source)]) + source
    return b"\0\0\0\x20jumb\0\0\0\x18jumdc2pa\0\x11\0\x10c2pa\0" + action + claim


CLAIMS = {
    b"oclaim_generator\x78\x1bOpenAI-API/1.0 c2pa-rs/0.28" + bytes(10): "OpenAI-API",
    b"\x74claim_generator_info\xa2dname\x67ChatGPTgversionc1.0": "ChatGPT",
    b"\x74claim_generator_info\x81\xa1dname\x6dAdobe_Firefly": "Adobe_Firefly",
    b"no claim": None,
}


class TestCredentials:
    @pytest.mark.parametrize("claim", CLAIMS)
    def test_where_they_are(self, claim: bytes) -> None:
        content = manifest(claim)
        jpeg, webp, avif = saved("JPEG"), saved("WEBP"), saved("AVIF")
        segment = b"\xff\xeb" + struct.pack(">H", len(content) + 10) + b"JP\0\1\0\0\0\1" + content
        uuid = bytes.fromhex("d8fec3d61b0e483c92975828877ec481") + bytes(4) + content
        files = [
            png(chunk(b"caBX", content)),
            jpeg[:2] + segment + jpeg[2:],
            webp + b"C2PA" + struct.pack("<I", len(content)) + content + bytes(len(content) % 2),
            avif + struct.pack(">I", len(uuid) + 8) + b"uuid" + uuid,
        ]
        for data in files:
            assert read_generation(data) == GenerationParameters(generator=CLAIMS[claim], c2pa=True)

    def test_beside_parameters(self) -> None:
        found = read_generation(png(chunk(b"caBX", manifest(next(iter(CLAIMS)))), parameters=A1111))
        assert (found.generator, found.c2pa, found.seed) == ("AUTOMATIC1111", True, 42)

    def test_a_signed_photograph_has_no_generator(self) -> None:
        content = manifest(next(iter(CLAIMS))).replace(b"trainedAlgorithmicMedia", b"digitalCapture")
        assert read_generation(png(chunk(b"caBX", content))) == GenerationParameters(c2pa=True)


class TestHostile:
    @pytest.mark.parametrize(
        "content",
        [
            chunk(b"zTXt", b"parameters\0\0" + zlib.compress(bytes(10**8))),
            chunk(b"iTXt", b"parameters\0\1\0\0\0" + zlib.compress(bytes(10**8))),
            chunk(b"tEXt", b"parameters\0" + A1111.encode() + b" " * MAX_TEXT),
            chunk(b"tEXt", b"parameters\0" + A1111.encode())[:-1] + b"\0",
            chunk(b"iTXt", b"parameters\0\1"),
            chunk(b"zTXt", b"parameters"),
            chunk(b"tEXt", b""),
            chunk(b"tEXt", b"prompt\0" + b'{"a":' * 200_000),
            chunk(b"tEXt", b"prompt\0" + b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
            chunk(b"tEXt", b"prompt\0{" + b'"a":{},' * 100_000 + b'"b":1}'),
            chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>"),
            chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff"),
            chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"),
            chunk(b"tEXt", b"Description\0" + b" --v" * 100_000 + b"x" + b" " * 10),
            chunk(b"tEXt", b"Dream\0" + b'"' * 10**6),
        ],
    )
    def test_is_as_good_as_none(self, content: bytes) -> None:
        assert not read_generation(png(content)).tells() or b"Description" in content or b"Dream" in content
        assert read_generation(png(content, parameters=A1111)) == FOX

    def test_quotes_and_keys_without_end(self) -> None:
        for text in (
            "Steps: 1, Seed: 1, " + 'a: "' * 10**5,
            "Steps: 1, Seed: 1, " + 'a: "\\"' * 10**5,
            "Steps: 1, Seed: 1" + ", " * 10**5 + ":" * 10**5,
            "Steps: 1, Seed: 1\n" * 10**5,
            "<lora:" * 10**5 + "\nSteps: 1, Seed: 1",
        ):
            found = read_text(text)
            assert found is not None
            assert found.seed in (1, None)

    def test_many_texts(self) -> None:
        data = png(*[chunk(b"tEXt", b"k%d\0" % number + bytes(100)) for number in range(2000)], parameters=A1111)
        assert read_generation(data) == FOX

    def test_a_large_graph_that_branches(self) -> None:
        """Every node is linked to the ten that follow: there are more ways through it than can be counted."""
        graph = {
            str(number): node(
                "KSampler", seed=number, steps=1, **{f"in{each}": [str(number + each), 0] for each in range(1, 11)}
            )
            for number in range(3000)
        }
        for each in graph.values():
            each["inputs"] |= {
                "image": each["inputs"]["in1"],
                "positive": each["inputs"]["in2"],
                "model": each["inputs"]["in3"],
            }
        assert graph_read(graph).generator == "ComfyUI"


FILES = [
    png(parameters=A1111, prompt=json.dumps(FLUX), workflow="{}"),
    png(prompt=json.dumps(GRAPH)),
    png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp("<exif:UserComment>{}</exif:UserComment>", A1111))),
    saved("JPEG", exif=exif_comment(A1111), comment=b"x", xmp=xmp("<dc:description>{}</dc:description>", A1111)),
    saved("WEBP", exif=exif_comment(A1111)),
    saved("AVIF", exif=exif_comment(A1111)),
    saved("TIFF", exif=exif_comment(A1111)),
]


#: Keys by which tools are told apart.
KEYS = """
prompt seed image Comment Software inputs class_type nodes links sui_image_params model loras id mode v4_prompt caption
char_captions extraMetadata workflow app_id widgets_values
""".split()


class TestDamaged:
    """Whatever happened to a file, what is read is what it says, or nothing; all of it can be put into a table."""

    @staticmethod
    def check(found: GenerationParameters) -> None:
        assert found.seed is None or 0 <= found.seed < 2**64
        for cell in found.cells().values():
            assert cell is None or (0 < len(cell) <= 51_000 and "\0" not in cell and cell.encode())

    @settings(max_examples=150, deadline=None)
    @given(
        st.sampled_from(FILES), st.lists(st.tuples(st.integers(0, 5000), st.binary(max_size=4)), max_size=5), st.data()
    )
    def test_bytes(self, data: bytes, changes: list[tuple[int, bytes]], more: st.DataObject) -> None:
        damaged = bytearray(data)
        for at, put in changes:
            damaged[at % len(damaged) : at % len(damaged) + len(put)] = put
        self.check(read_generation(bytes(damaged[: more.draw(st.integers(0, len(damaged)))])))

    @settings(max_examples=50, deadline=None)
    @given(st.data())
    def test_graphs(self, data: st.DataObject) -> None:
        graph = json.loads(json.dumps(data.draw(st.sampled_from([GRAPH, FLUX]))))
        keys = sorted(graph)
        values = st.one_of(
            st.tuples(st.sampled_from(keys), st.integers(0, 2)).map(list),
            st.recursive(
                st.none() | st.booleans() | st.floats() | st.text(max_size=5), lambda each: st.lists(each, max_size=2)
            ),
        )
        for _ in range(data.draw(st.integers(1, 6))):
            inputs = graph[data.draw(st.sampled_from(keys))]["inputs"]
            inputs[data.draw(st.sampled_from(sorted(inputs)))] = data.draw(values)
        found = graph_read(graph)
        self.check(found)
        assert found.generator == "ComfyUI"

    @settings(max_examples=100, deadline=None)
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
            lambda each: (
                st.lists(each, max_size=3)
                | st.dictionaries(
                    st.sampled_from(KEYS),
                    each,
                    max_size=5,
                )
            ),
            max_leaves=20,
        )
    )
    def test_objects(self, value: object) -> None:
        text = json.dumps(value)
        for found in (
            read_text(text),
            read_text("workflow:" + text),
            read_generation(png(prompt=text, Software="NovelAI")),
        ):
            if found is not None:
                self.check(found)

    @settings(max_examples=100, deadline=None)
    @given(st.text(max_size=200), st.text(max_size=200))
    def test_texts(self, text: str, other: str) -> None:
        found = read_text(f"{text}\nNegative prompt: {other}\n{SETTINGS}")
        assert found is not None
        self.check(found)

    def test_the_names_of_the_package(self) -> None:
        assert aigciqa.read_generation is read_generation
