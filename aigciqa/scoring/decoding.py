"""From files to preprocessed images, in threads, none of which can hold up a run for ever."""

from __future__ import annotations

import io
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from aigciqa.errors import ImageError
from aigciqa.images.colour import is_srgb
from aigciqa.images.decode import load_content, load_image
from aigciqa.images.preprocess import Preprocessor
from aigciqa.images.reading import MAX_PIXELS, read_content
from aigciqa.registry import Preprocess
from aigciqa.utils import memory
from aigciqa.utils.memory import Budget, Share

if TYPE_CHECKING:
    from aigciqa.records import Content

Decoder = Literal["pillow", "draft", "nvjpeg"]
DECODERS: tuple[Decoder, ...] = ("pillow", "draft", "nvjpeg")
#: An image that takes longer to read and decode times out: its disk or its decoder hangs.
DECODE_SECONDS = 120.0
#: How often that is checked while an image is waited for, and how much a longer gap counts.
TICK_SECONDS = 1.0
#: How long a run that ends waits for its threads.
CLOSE_SECONDS = 2.0
#: A JPEG file that ends otherwise may be truncated.
_END_OF_IMAGE = b"\xff\xd9"

#: An image preprocessed in each way asked for, uint8 (3, h, w).
Preprocessed: TypeAlias = "dict[Preprocess, Tensor]"
#: Decodes an image; called with its shares of the encoded images that are held and of the memory for decoding.
_Work: TypeAlias = "Callable[[Share, Share], Preprocessed]"
#: Looks at the bytes of an image's file.
Look: TypeAlias = "Callable[[bytes], None]"


class _Clock:
    """The time that this process ran while someone waited for an image.

    A gap between two looks at it counts as a tick at most: the process was stopped meanwhile (Ctrl-Z, a batch system),
    or nobody waited.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = time.monotonic()
        self._seconds = 0.0

    def seconds(self) -> float:
        with self._lock:
            now = time.monotonic()
            self._seconds += min(now - self._last, TICK_SECONDS)
            self._last = now
            return self._seconds


_CLOCK = _Clock()


class Decoding:
    """An image on its way.

    Of the budget of encoded images that are held, it has the share `given` if it came with its content, else `read`.
    """

    def __init__(self, name: str, work: _Work, given: Share, read: Share) -> None:
        self.name = name
        self.has_timed_out = False
        self._work: _Work | None = work
        self._given, self._read, self._memory = given, read, Share()
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._started: float | None = None
        self._preprocessed: Preprocessed = {}
        self._failure: str | None = None

    def run(self) -> None:
        """Decode, in the caller's thread, unless it has ended."""
        work, self._work = self._work, None  # it holds the encoded image, and the result outlives that
        if self._done.is_set() or work is None:
            return
        self._started = _CLOCK.seconds()
        preprocessed, failure = {}, None
        try:
            preprocessed = work(self._read, self._memory)
        except Exception as error:  # no thread ends with its image
            failure = _reason(self.name, error)
        del work  # and the encoded image with it, before there is said to be room for others
        self._end(preprocessed, failure)

    def stop(self) -> None:
        """End it with an error, unless it has ended."""
        self._end({}, f"{self.name}: the run was stopped")

    def time_out(self) -> bool:
        """End it with an error if it has been decoding for too long; whether this call did so."""
        if self._read.is_waiting or self._memory.is_waiting:
            self._started = _CLOCK.seconds()  # others use the memory; that is not its fault
        started = self._started
        if started is None or _CLOCK.seconds() - started < DECODE_SECONDS:
            return False
        return self._end({}, f"{self.name}: decoding timed out after {DECODE_SECONDS:g} seconds", has_timed_out=True)

    def wait(self, seconds: float) -> Preprocessed | None:
        """The preprocessed image, or None if it takes longer; raises ImageError."""
        if not self._done.wait(seconds):
            return None
        if self._failure is not None:
            raise ImageError(self._failure)
        return self._preprocessed

    def _end(self, preprocessed: Preprocessed, failure: str | None, *, has_timed_out: bool = False) -> bool:
        """Set the result, unless there is one; whether this call did so."""
        with self._lock:
            if self._done.is_set():
                return False
            self.has_timed_out = has_timed_out
            self._preprocessed, self._failure = preprocessed, failure
            self._done.set()
        for share in (self._given, self._read, self._memory):
            share.give_back()  # also of one that hangs, or still waits for its turn
        return True


class DecoderPool:
    """Threads that decode.

    A thread that hangs in a decoder, or in a read from a dead disk, can't be ended. Its image times out, another thread
    takes its place, and being a daemon it does not keep the process alive. With 0 workers, images are decoded where
    they are submitted. `device` is where `nvjpeg` decodes.
    """

    def __init__(self, workers: int, decoder: Decoder, device: torch.device) -> None:
        self.workers = workers
        is_on_gpu = decoder == "nvjpeg" and device.type == "cuda"
        # The caller's: what threads do in their own ones, it would not wait for.
        stream = torch.cuda.current_stream(device) if is_on_gpu else None
        self.preprocess = partial(_preprocess, decoder=decoder, device=device, stream=stream)
        self.budget = Budget(memory.CONTENT_BYTES)
        self.queue: queue.SimpleQueue[Decoding | None] = queue.SimpleQueue()
        self.unfinished: set[Decoding] = set()
        self.threads: list[threading.Thread] = []
        for _ in range(workers):
            self._start_thread()

    def submit(
        self, name: str, content: Content | None, specs: tuple[Preprocess, ...], look: Look | None = None
    ) -> Decoding:
        """Have an image decoded and preprocessed in each of some ways; a content waits for room in the budget.

        `look` is called with the bytes of its file before they are decoded, in the thread that decodes them.
        """
        size = 0 if content is None else len(content) if isinstance(content, bytes) else content.nbytes
        given, read = Share(self.budget, "given"), Share(self.budget, "read")
        while size and not given.take(size, min(TICK_SECONDS, DECODE_SECONDS)):
            self._time_out_overdue()
        decoding = Decoding(name, partial(self.preprocess, name, content, specs, look), given, read)
        if self.workers:
            self.unfinished.add(decoding)
            self.queue.put(decoding)
        else:
            decoding.run()
        return decoding

    def result(self, decoding: Decoding) -> Preprocessed:
        """Wait for an image; raises ImageError if it can't be decoded, or takes too long."""
        while (preprocessed := decoding.wait(min(TICK_SECONDS, DECODE_SECONDS))) is None:
            self._time_out_overdue()
        return preprocessed

    def close(self) -> None:
        """End the threads; whoever waits for an image is told so. One that hangs is not waited for."""
        for decoding in list(self.unfinished):
            decoding.stop()
        for _ in range(self.workers):
            self.queue.put(None)
        deadline = time.monotonic() + CLOSE_SECONDS
        for thread in self.threads:  # a daemon that wakes while the interpreter ends can abort the process
            thread.join(max(0.0, deadline - time.monotonic()))

    def _time_out_overdue(self) -> None:
        for each in list(self.unfinished):  # any of them may hold the thread, or the room, that is waited for
            if each.time_out():
                self.unfinished.discard(each)
                self._start_thread()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._decode, name="aigciqa-decode", daemon=True)
        thread.start()
        self.threads.append(thread)

    def _decode(self) -> None:
        while (decoding := self.queue.get()) is not None:
            decoding.run()
            self.unfinished.discard(decoding)
            if decoding.has_timed_out:
                return


def _reason(name: str, error: Exception) -> str:
    """Why an image can't be decoded."""
    if isinstance(error, ImageError):  # which names the file
        return str(error)
    if isinstance(error, MemoryError):
        return f"{name}: not enough memory to decode it"
    if isinstance(error, (TypeError, ValueError)):  # pixels of another type or shape
        return f"{name}: {error}"
    return f"{name}: {type(error).__name__}: {error}"


def _preprocess(
    name: str,
    content: Content | None,
    specs: tuple[Preprocess, ...],
    look: Look | None,
    read: Share,
    decoding: Share,
    *,
    decoder: Decoder,
    device: torch.device,
    stream: torch.cuda.Stream | None,
) -> Preprocessed:
    """An image preprocessed in each way."""
    if content is None:
        content = read_content(name, read.take)
    if look is not None and isinstance(content, bytes):
        look(content)
    if isinstance(content, np.ndarray):
        image = load_image(content)
    elif decoder == "nvjpeg" and (preprocessed := _preprocess_on(device, stream, content, specs)) is not None:
        return preprocessed
    else:
        sides = [spec.resize for spec in specs if spec.resize is not None]
        is_draft = decoder == "draft" and len(sides) == len(specs)  # else one of them sees all pixels
        image = load_content(content, name, at_least=max(sides) if is_draft else None, share=decoding)
    try:
        return {spec: Preprocessor(spec).image(image) for spec in specs}
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None


def _preprocess_on(
    device: torch.device, stream: torch.cuda.Stream | None, content: bytes, specs: tuple[Preprocess, ...]
) -> Preprocessed | None:
    """A JPEG file decoded by nvJPEG and preprocessed on the device; None for what is Pillow's to judge."""
    from torchvision.io import ImageReadMode, decode_jpeg

    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as header:
            is_plain = header.mode in ("RGB", "L") and header.getexif().get(ExifTags.Base.Orientation, 1) == 1
            is_plain &= header.width * header.height <= MAX_PIXELS and content.endswith(_END_OF_IMAGE)
            is_plain = is_plain and is_srgb(header)
        if not is_plain:
            return None
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        with torch.cuda.stream(stream):
            levels: Tensor = decode_jpeg(data, mode=ImageReadMode.RGB, device=device)
            pixels = levels[None].float() / 255
            images = {spec: Preprocessor(spec).tensor(pixels)[0] for spec in specs}
            return {spec: (image * 255 + 0.5).to(torch.uint8) for spec, image in images.items()}
    except Exception:  # broken data, no memory left on the device, a shape that can't be preprocessed
        return None
