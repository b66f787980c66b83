"""A random collection for property tests, in the database and as rows of the reference."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from ingest.models import Dataset, Image, Modality, OrganClass
from ml.models import ModelVersion, VersionStatus
from search.models import Query, QueryStatus, VersionIndex
from tests import factories
from tests.search.reference import Asked, Origin, Row

SIZE = 140
ORGANS, MODALITIES = ["brain", "chest", "kidney", "liver"], ["CT", "DX", "MR"]
DATASETS, VIEWS, SEXES = ["first", "second", "third"], ["AP", "PA", "LL"], ["F", "M", "O"]
AGES = {"007D": 0, "018M": 1, "017Y": 17, "018Y": 18, "045Y": 45, "059Y": 59, "080Y": 80, "102Y": 102}
WORDS = ["contrast", "left", "right", "supine", "thorax"]
MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)


class Collection:
    """Clustered images, some of them exact duplicates, with and without everything that can be missing."""

    def __init__(self, seed: int) -> None:
        self.draw, self.numbers = random.Random(seed), np.random.default_rng(seed)
        # Half of what tells images apart lies outside the projection, which is the first 512 dimensions.
        self.active = np.r_[
            self.numbers.choice(512, 16, False), self.numbers.choice(np.r_[512:4096], 16, False)
        ]
        self.centres = [self.numbers.integers(0, 5, 32) for _ in range(6)]
        self.version, other = (
            make_version(status) for status in (VersionStatus.ACTIVE, VersionStatus.RETIRED)
        )
        for name in ORGANS:
            OrganClass.objects.get_or_create(name=name)
        for code in MODALITIES:
            Modality.objects.get_or_create(code=code)
        images = self.make_images()
        fc1 = self.make_fc1(images)
        order = self.draw.sample(range(SIZE), SIZE)  # embeddings are not made in the order of the images
        rows = []
        for place in order:
            row = self.make_row(images[place], fc1[place])
            self.embed(row, images[place], self.version)
            rows.append(row)
            if self.draw.random() < 0.2:  # what another version saw is never searched
                self.embed(self.make_row(images[place], fc1[place]), images[place], other)
        self.rows = rows

    def make_images(self) -> list[Image]:
        images = factories.make_bare_images(SIZE)
        for number, image in enumerate(images):
            patient = self.draw.randrange(40)
            image.dataset = Dataset.objects.get_or_create(name=self.draw.choice(DATASETS))[0]
            image.organ = self.maybe(OrganClass.objects.get(name=self.draw.choice(ORGANS)))
            image.modality = self.maybe(Modality.objects.get(code=self.draw.choice(MODALITIES)))
            image.group_key = f"patient-{patient}"
            image.series_key = self.maybe(f"series-{patient}-{self.draw.randrange(2)}") or ""
            image.body_part_examined = self.maybe(self.draw.choice(WORDS).upper()) or ""
            image.tags = self.make_tags()
            if number % 9 == 8:  # another frame of the same file
                image.sha256, image.frame_number = images[number - 1].sha256, 2
        Image.objects.bulk_create(images)
        for image in images:
            image.created_at = MIDNIGHT + timedelta(hours=self.draw.choice([-25, -1, 0, 1, 23, 24, 49]))
        Image.objects.bulk_update(images, ["created_at"])
        return images

    def maybe(self, value: Any) -> Any:
        return value if self.draw.random() < 0.75 else None

    def make_tags(self) -> dict[str, Any]:
        tags = {
            "ViewPosition": self.maybe(self.draw.choice(VIEWS)),
            "PatientSex": self.maybe(self.draw.choice(SEXES)),
            "PatientAge": self.maybe(self.draw.choice([*AGES, "", "unknown"])),
            "StudyDescription": self.maybe(" ".join(self.draw.sample(WORDS, 2))),
            "Rows": 512,
        }
        return {keyword: value for keyword, value in tags.items() if value is not None}

    def make_fc1(self, images: list[Image]) -> np.ndarray:
        fc1 = np.zeros((SIZE, 4096), np.float32)
        for place in range(SIZE):
            if place and self.draw.random() < 0.2:
                fc1[place] = fc1[self.draw.randrange(place)]
            else:
                fc1[place] = self.point()
        return fc1

    def point(self, draw: random.Random | None = None) -> np.ndarray:
        """Near one of the centres; whole numbers, not negative."""
        draw = draw or self.draw
        values = np.array(draw.choice(self.centres))
        for place in draw.sample(range(32), draw.choice([1, 3, 12])):
            values[place] = max(0, values[place] + draw.choice([-2, -1, 1, 3]))
        if draw.random() < 0.4:  # the projection tells the whole distance: nothing of the bound is slack
            values[16:] = 0
        fc1 = np.zeros(4096, np.float32)
        fc1[self.active] = values
        return fc1

    def make_row(self, image: Image, fc1: np.ndarray) -> Row:
        """The row but for its id; what the network sees is drawn here."""
        tags = image.tags
        text = " ".join([image.body_part_examined, *[v for v in tags.values() if isinstance(v, str)]])
        predicted = self.draw.choice(ORGANS), self.maybe(self.draw.choice(MODALITIES))
        return Row(
            id=0,
            image_id=image.pk,
            fc1=fc1,
            projection=fc1[:512],
            organ=image.organ.name if image.organ else predicted[0],
            modality=image.modality.code if image.modality else predicted[1],
            dataset=image.dataset.name,
            view=tags.get("ViewPosition"),
            sex=tags.get("PatientSex"),
            age=AGES.get(tags.get("PatientAge", "")),
            words=set(text.lower().split()),
            imported=image.created_at.date(),
            series=image.series_key,
            group=image.group_key,
            sha256=image.sha256,
        )

    def embed(self, row: Row, image: Image, version: ModelVersion) -> None:
        """Where the image has no label, the network sees what the row says."""
        organ, modality = image.organ or OrganClass.objects.get(name=row.organ), row.modality
        other_organ = OrganClass.objects.exclude(pk=organ.pk).order_by("?")[0]
        embedding = factories.make_embedding(
            image,
            version,
            row.fc1,
            predicted_organ=other_organ if image.organ else organ,
            predicted_modality=None
            if image.modality or not modality
            else Modality.objects.get(code=modality),
            modality_probability=None,
        )
        row.id = embedding.pk

    def ask(self, seed: int) -> tuple[Asked, Query]:
        """An answered query, and what the reference is to know of it."""
        draw = random.Random(seed)
        known = draw.choice(self.rows)
        fc1 = known.fc1 if draw.random() < 0.5 else self.point(draw)
        names = draw.sample([*ORGANS, "unheard-of"], 4)
        shares = sorted([draw.choice([0.0, 1.0, 2.0, 9.0]) + 0.01 for _ in names], reverse=True)
        probabilities = [(n, round(s / sum(shares), 6)) for n, s in zip(names, shares, strict=True)]
        origins = [self.origin(draw) for _ in range(draw.choice([1, 1, 1, 2]))]
        asked = Asked(
            fc1=fc1,
            probabilities=probabilities,
            origins=origins,
            newest=draw.choice([None, known.id, max(row.id for row in self.rows)]),
            weight=draw.choice([0.0, 3.3, 17.7, 55.5, 400.1]),
            near_duplicate=draw.choice([None, 0.5**0.5, 2.5**0.5, 12.5**0.5]),
        )
        return asked, self.make_query(asked, draw)

    def origin(self, draw: random.Random) -> Origin:
        row = draw.choice(self.rows)
        return draw.choice(
            [
                Origin(row.image_id, row.group, row.sha256),
                Origin(None, row.group, "of no image"),
                Origin(None, "of no patient", row.sha256),
                Origin(row.image_id),
                Origin(),
            ]
        )

    def make_query(self, asked: Asked, draw: random.Random) -> Query:
        VersionIndex.objects.update_or_create(
            model_version=self.version,
            defaults={"blend_weight": asked.weight, "near_duplicate": asked.near_duplicate},
        )
        seen: dict[str, Any] = {
            "status": QueryStatus.ANSWERED,
            "model_version": self.version,
            "fc1": asked.fc1,
            "projection": asked.fc1[:512],
            "organ_probabilities": [list(pair) for pair in asked.probabilities],
            "newest_embedding": asked.newest,
        }
        pictures = [
            Query.objects.create(image_id=o.image_id, group_key=o.group, sha256=o.sha256, **seen)
            for o in asked.origins
        ]
        query = pictures[0]
        if len(pictures) > 1:
            query = Query.objects.create(**seen)
            query.parts.set(pictures)
        if draw.random() < 0.2:  # a region, or a refinement
            query = Query.objects.create(parent=query, region=draw.choice([None, [0, 0, 1, 1]]), **seen)
        return query


def make_version(status: str) -> ModelVersion:
    return ModelVersion.objects.create(
        recipe="default", checkpoint="none", organs=ORGANS, modalities=MODALITIES, status=status
    )
