"""Where a row's content and style come from when it is made again: banks, shards, the data set, or the sources."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diffstyle.errors import ConfigError
from pipeline.banks.description import BankDescription, entry_of, stored_tensors
from pipeline.banks.fit import in_words
from pipeline.banks.reader import LatentBank
from pipeline.banks.tensors import BankError, TensorSpec
from pipeline.jobfile.schema import BankSpec, SampleSpec
from pipeline.models.session import LoadedModel
from pipeline.results.source_pictures import thumbnails_of
from pipeline.shards.decode import Undecodable, decode, preparation
from pipeline.shards.rows import read_png
from pipeline.shards.store import ShardError, ShardStore, open_shards
from pipeline.sources import Block, open_source
from pipeline.stages.invert import invert_pictures
from pipeline.stages.sample import draw_samples, sample_of
from pipeline.stages.walk import Walk
from pipeline.storage.identity import image_hash, source_name
from pipeline.storage.layout import OutputLayout
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place
from pipeline.storage.stored_description import DescriptionError
from pipeline.storage.tables import DamagedError, OtherReleaseError

#: A network that computes in a precision.
Load = Callable[[str], LoadedModel]


@dataclass(frozen=True)
class Latents:
    """What one side of a pair gives to it.

    Attributes:
        tensors: By name: ``h`` (K, C, h, w) of a content, ``x_t`` (3, S, S) of a style, and what else is needed.
        origin: Where it came from, in words.
        pixels: The prepared picture, uint8 (S, S, 3), or its thumbnail; None: not known.
    """

    tensors: dict[str, np.ndarray]
    origin: str
    pixels: np.ndarray | None


@dataclass
class SideSearch:
    """Looks for one side of a row.

    Attributes:
        side: ``content`` or ``style``.
        row: The row.
        description: Of a bank that would hold it: model, inversion, preparation, and the tensors at the timesteps that
            are needed, and no others.
        run: The output folder that the row was made in, if it is known.
        spec: What the job says of this side; None: not known.
        prepared: The prepared picture as a data set of triplets has it.
        notes: Gets a line for whatever was there and could not be used.
    """

    side: str
    row: Mapping[str, Any]
    description: BankDescription
    run: Place | None
    spec: Any
    prepared: bytes | None
    notes: list[str] = field(default_factory=list)

    @property
    def image(self) -> str:
        """The prepared picture's hash."""
        return self.row[f"{self.side}_image"]

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"the {self.side} {self.row[f'{self.side}_source'] or self.row[f'{self.side}_key']}"

    def latents(self, load: Load) -> Latents:
        """The latents: from a bank, or made again from the picture.

        Args:
            load: Opens the model in a precision.

        Raises:
            ConfigError: Neither is there any more, or the source has changed.
        """
        picture = self._shown()
        for bank in self._banks():
            tensors = self._from_bank(bank)
            if tensors is not None:
                pixels = thumbnails_of(bank, [self.image]).get(self.image) if picture is None else picture[0]
                return Latents(tensors, f"{in_words(self.description.names)} from the bank {bank}", pixels)
        sample = sample_of(self.row[f"{self.side}_source"] or "")
        if sample is not None:
            return self._drawn(load, *sample)
        pixels, origin = picture or self._from_source()
        context = load(Walk.of_bank(self.description).precision)
        tensors = invert_pictures(context, self.description, pixels[None])
        return Latents(self._rounded(tensors), f"inverted again, from {origin}", pixels)

    # ---- banks ----
    def _banks(self) -> Iterator[Place]:
        layout = None if self.run is None else OutputLayout(self.run)
        places = [place for name in (self.side, "both") for place in (layout.banks(name) if layout else [])]
        if isinstance(self.spec, BankSpec):
            places.append(Place.parse(self.spec.bank))
        for place in dict.fromkeys(places):
            if PartStore(place).exists():
                yield place

    def _from_bank(self, place: Place) -> dict[str, np.ndarray] | None:
        """The tensors, at the timesteps that are needed; None where the bank has them not, or others."""
        try:
            bank = LatentBank.open(place)
            compared = ("model_fingerprint", "image_size", "inversion", "preprocessing")
            if (
                any(getattr(bank.description, one) != getattr(self.description, one) for one in compared)
                or not all(_is_kept(wanted, bank.description) for wanted in self.description.tensors)
                or self.image not in bank
            ):
                return None
            tensors = bank.get_many([self.image], self.description.names)[0].tensors
        except (BankError, DescriptionError, DamagedError, OtherReleaseError) as error:
            self.notes.append(f"not used: {error}")
            return None
        for wanted in self.description.tensors:
            kept = bank.description.tensor(wanted.name)
            if wanted.timesteps is not None and kept.timesteps is not None:
                slots = [kept.timesteps.index(t) for t in wanted.timesteps]
                tensors[wanted.name] = np.ascontiguousarray(tensors[wanted.name][slots])
        return tensors

    def _rounded(self, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The only picture of a batch, as a bank would have kept it."""
        row = {"key": self.row[f"{self.side}_key"], "image": self.image}
        own = {name: values[0] for name, values in tensors.items()}
        return stored_tensors(entry_of(self.description, row, **own), self.description)

    # ---- pictures ----
    def _shown(self) -> tuple[np.ndarray, str] | None:
        """The prepared picture from the run's shards, or from the data set itself."""
        places = [] if self.run is None else [OutputLayout(self.run).shards(name) for name in (self.side, "both")]
        for place in places:
            if PartStore(place).exists() and (pixels := self._from_shards(place)) is not None:
                return pixels, f"the shards {place}"
        if self.prepared is not None:
            try:
                pixels = read_png(self.prepared, {"key": self.name, "image": self.image})
                return pixels, "the data set's own picture of it"
            except (OSError, SyntaxError, ValueError):
                self.notes.append(f"not used: the data set's picture of {self.name} has changed")
        return None

    def _from_shards(self, place: Place) -> np.ndarray | None:
        try:
            store: ShardStore = open_shards(place)
            rows = store.rows()
            rows = rows.filter(pc.equal(rows["image"], pa.scalar(self.image))).slice(0, 1).to_pylist()
            return store.read(rows[0]) if rows else None
        except (ShardError, DescriptionError, DamagedError, OtherReleaseError) as error:
            self.notes.append(f"not used: {error}")
            return None

    def _drawn(self, load: Load, seed: int, number: int) -> Latents:
        context = load(Walk.of_bank(self.description).precision)
        tensors, pixels, _ = draw_samples(context, self.description, seed, [number])
        if image_hash(pixels[0]) != self.image:
            self.notes.append(f"{self.name} comes out with other pixels here than where it was drawn first")
        return Latents(self._rounded(tensors), f"sample {number} of seed {seed}, drawn again", pixels[0])

    def _from_source(self) -> tuple[np.ndarray, str]:
        """The picture as its data set has it now."""
        option = f"--{self.side}s"
        gone = f"{self.name} is in no bank and no shards any more"
        if self.spec is None:
            raise ConfigError(f"{gone}, and its data set is not known; name it with {option}")
        if isinstance(self.spec, BankSpec | SampleSpec):
            named = f"the bank {self.spec.bank}" if isinstance(self.spec, BankSpec) else "samples"
            raise ConfigError(f"{gone}; the job takes {named}; name a data set that has the picture with {option}")
        prepared = self.description.preprocessing
        if prepared != preparation(self.description.image_size):
            raise ConfigError(f"{gone}, and this release prepares pictures otherwise; install the one that made it")
        addresses = ", ".join(self.spec.addresses)
        matching = self._matching()
        if not matching:
            raise ConfigError(
                f"{gone}, and {addresses} has no such picture; put it back, or name its data set with {option}"
            )
        reasons = []
        for block in matching:
            for picture in block.pictures():
                try:
                    if picture.data is None:
                        raise Undecodable(picture.error or "no data")
                    pixels = decode(picture.data, self.description.image_size).pixels
                except Undecodable as error:
                    reasons.append(f"{picture.source} can't be read: {error}")
                    continue
                if image_hash(pixels) == self.image:
                    return pixels, picture.source
                reasons.append(f"{picture.source} has changed: it is not the picture that the row was made from")
        raise ConfigError(f"{gone}, and {reasons[0]}; put it back, or name a data set that has it with {option}")

    def _matching(self) -> Sequence[Block]:
        """The pictures of the data set that are called so: by the whole source, else by its name alone."""
        wanted = self.row[f"{self.side}_source"]
        exact, alike = [], []
        for block in open_source(self.spec).blocks({}):
            for item in block.items:
                if item.source == wanted:
                    exact.append(Block(block.index, block.reader, (item,)))
                elif wanted is not None and source_name(item.source) == source_name(wanted):
                    alike.append(Block(block.index, block.reader, (item,)))
        return exact or alike


def _is_kept(wanted: TensorSpec, description: BankDescription) -> bool:
    """Whether a bank keeps a tensor of this name, type and shape, at these timesteps at least."""
    if not description.keeps(wanted.name):
        return False
    kept = description.tensor(wanted.name)
    return (kept.dtype, kept.shape) == (wanted.dtype, wanted.shape) and set(wanted.timesteps or ()) <= set(
        kept.timesteps or ()
    )
