from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from contex_server.kernel.config import EmbedderSettings
from contex_server.matching.embedders import create
from contex_server.matching.embedders.local import LocalModel, Use, settings
from contex_server.matching.embedders.port import ModelInvalid, Role
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "query:", "red", "green", "blue", "word"]
SPECIAL = [[9, 9, 9], [1, 1, 1], [3, 0, 0], [0, 3, 0], [0, 0, 5]]
COLOURS = [[1, 2, 0], [0, 1, 2], [2, 0, 1], [1, 0, 0]]
VECTORS = np.array([*SPECIAL, *COLOURS], np.float32)
"""Of each token; that of padding would be seen."""


def tokenizer() -> Tokenizer:
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.enable_padding(length=16)  # As many files have it; it must not be used.
    return made


def network(
    output: str = "last_hidden_state",
    inputs: tuple[str, ...] = ("input_ids", "attention_mask"),
    *,
    pooled: bool = False,
    kind: int = TensorProto.INT64,
) -> bytes:
    """Looks each token up in a table; `pooled` also has the first token's as an output."""
    shape = ["batch", "sequence"]
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], [output], axis=0),
            *(
                [helper.make_node("Gather", [output, "at"], ["sentence_embedding"], axis=1)]
                if pooled
                else []
            ),
        ],
        "tiny",
        [helper.make_tensor_value_info(name, kind, shape) for name in inputs],
        [
            helper.make_tensor_value_info(output, TensorProto.FLOAT, [*shape, 3]),
            *(
                [
                    helper.make_tensor_value_info(
                        "sentence_embedding", TensorProto.FLOAT, ["batch", 3]
                    )
                ]
                if pooled
                else []
            ),
        ],
        [
            numpy_helper.from_array(VECTORS, "table"),
            *([numpy_helper.from_array(np.array(0), "at")] if pooled else []),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "tiny"
    path.mkdir()
    (path / "model.onnx").write_bytes(network())
    tokenizer().save(str(path / "tokenizer.json"))
    return path


@pytest.fixture
def write(directory: Path) -> Callable[[str, object], None]:
    def write(name: str, value: object) -> None:
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(value))

    return write


def unit(*rows: list[float]) -> np.ndarray:
    vectors = np.array(rows, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


async def vectors(directory: Path, use: Use | None = None, role: Role = Role.DATUM) -> np.ndarray:
    model = LocalModel(directory, use)
    found = await model.embed(["red green", "blue"], role)
    await model.close()
    return found


MEAN = unit([4, 6, 2], [5, 3, 1])
CLS = unit([3, 0, 0], [3, 0, 0])


async def test_the_mean_of_the_tokens_without_padding(directory: Path) -> None:
    assert await vectors(directory) == pytest.approx(MEAN)
    assert await vectors(directory, Use("mean")) == pytest.approx(MEAN)


async def test_the_first_and_the_last_token(directory: Path) -> None:
    assert await vectors(directory, Use("cls")) == pytest.approx(CLS)
    assert await vectors(directory, Use("last")) == pytest.approx(unit([0, 3, 0], [0, 3, 0]))


async def test_prefixes_by_role(directory: Path) -> None:
    use = Use(need_prefix="query: ", datum_prefix="word ")
    assert await vectors(directory, use, Role.NEED) == pytest.approx(unit([4, 6, 7], [5, 3, 6]))
    assert await vectors(directory, use, Role.DATUM) == pytest.approx(unit([5, 6, 2], [6, 3, 1]))


async def test_texts_are_cut(directory: Path) -> None:
    model = LocalModel(directory, Use(max_tokens=3))
    await model.start()
    assert model.max_tokens == 3
    assert await model.embed(["red green blue"], Role.DATUM) == pytest.approx(unit([4, 5, 0]))
    await model.close()


async def test_what_the_directory_says(directory: Path, write: Any) -> None:
    write("1_Pooling/config.json", {"pooling_mode_cls_token": True, "pooling_mode_mean": False})
    write("config_sentence_transformers.json", {"prompts": {"query": "query: ", "passage": ""}})
    write("sentence_bert_config.json", {"max_seq_length": 16})
    write("tokenizer_config.json", {"model_max_length": 64})
    assert settings(directory) == Use("cls", "query: ", "", 16)
    assert await vectors(directory, Use("mean"), Role.NEED) == pytest.approx(
        unit([4, 6, 7], [5, 3, 6])
    )
    assert await vectors(directory) == pytest.approx(CLS)
    (directory / "sentence_bert_config.json").unlink()
    assert settings(directory).max_tokens == 64
    write("tokenizer_config.json", {"model_max_length": 10**30})
    assert settings(directory).max_tokens == 512


def test_each_way_to_name_a_pooling(directory: Path, write: Any) -> None:
    assert settings(directory) == Use()
    for name, pooling in {"mean_tokens": "mean", "lasttoken": "last", "cls_token": "cls"}.items():
        write("1_Pooling/config.json", {f"pooling_mode_{name}": True})
        assert settings(directory).pooling == pooling
    write("1_Pooling/config.json", {"pooling_mode": "lasttoken"})
    assert settings(directory).pooling == "last"


async def test_a_pooled_output_is_preferred(directory: Path, write: Any) -> None:
    write("1_Pooling/config.json", {"pooling_mode_mean_tokens": True})
    (directory / "model.onnx").write_bytes(network("token_embeddings", pooled=True))
    assert await vectors(directory) == pytest.approx(CLS)
    assert await vectors(directory, Use("mean")) == pytest.approx(MEAN)


@pytest.mark.parametrize(
    ("inputs", "kind"),
    [
        (("input_ids", "attention_mask", "token_type_ids"), TensorProto.INT64),
        (("input_ids",), TensorProto.INT32),
    ],
)
async def test_inputs_are_those_of_the_model(
    directory: Path, inputs: tuple[str, ...], kind: int
) -> None:
    (directory / "model.onnx").unlink()
    (directory / "onnx").mkdir()
    (directory / "onnx" / "model.onnx").write_bytes(network("anything", inputs, kind=kind))
    assert await vectors(directory) == pytest.approx(MEAN)


async def identity(directory: Path, use: Use | None = None) -> str:
    model = LocalModel(directory, use)
    await model.start()
    assert model.dimension == 3
    await model.close()
    return model.model_id


async def test_the_id_names_everything_that_vectors_depend_on(directory: Path) -> None:
    ids = {await identity(directory)}
    assert ids == {await identity(directory, Use(max_tokens=512))}
    (plain,) = ids
    assert plain.startswith("tiny@")
    assert len(plain) == len("tiny@") + 8
    uses = [Use("cls"), Use(need_prefix="a"), Use(datum_prefix="a"), Use(max_tokens=9)]
    for use in uses:
        ids.add(await identity(directory, use))
    made = tokenizer()
    made.add_tokens(["new"])
    made.save(str(directory / "tokenizer.json"))
    ids.add(await identity(directory))
    (directory / "model.onnx").write_bytes(network("other"))
    ids.add(await identity(directory))
    (directory / "model.onnx_data").write_bytes(b"weights")
    ids.add(await identity(directory))
    assert len(ids) == 8


async def test_the_settings_name_it(directory: Path) -> None:
    given = EmbedderSettings(kind="local", path=directory, pooling="cls", need_prefix="query: ")
    model = create(given)
    await model.start()
    assert model.model_id == await identity(directory, Use("cls", "query: "))
    assert await model.embed(["red"], Role.NEED) == pytest.approx(CLS[:1])
    await model.close()


async def refused(directory: Path, use: Use | None = None) -> str:
    model = LocalModel(directory, use)
    with pytest.raises(ModelInvalid) as caught:
        await model.start()
    await model.close()
    return str(caught.value)


async def test_missing_files_are_named(directory: Path) -> None:
    assert (await refused(directory / "none")).endswith("none is no directory")
    (directory / "tokenizer.json").unlink()
    assert (await refused(directory)).endswith("tiny has no tokenizer.json")
    (directory / "model.onnx").unlink()
    assert (await refused(directory)).endswith("tiny has no model.onnx or onnx/model.onnx")


async def test_broken_files_are_named(directory: Path, write: Any) -> None:
    write("tokenizer.json", {})
    assert "tiny: tokenizer.json is no tokenizer: " in await refused(directory)
    tokenizer().save(str(directory / "tokenizer.json"))
    (directory / "model.onnx").write_bytes(b"nothing")
    assert "tiny: the model can't be loaded: " in await refused(directory)
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text("{")
    assert "1_Pooling/config.json is no JSON" in await refused(directory)
    write("1_Pooling/config.json", [])
    assert "1_Pooling/config.json is no JSON object" in await refused(directory)


async def test_what_is_not_offered_is_named(directory: Path, write: Any) -> None:
    write("1_Pooling/config.json", {"pooling_mode_max_tokens": True})
    assert "pooling max_tokens is not offered" in await refused(directory)
    write("1_Pooling/config.json", {"pooling_mode_cls_token": True, "pooling_mode_x": True})
    assert "pooling cls_token + x is not offered" in await refused(directory)
    write("1_Pooling/config.json", {})
    write("config.json", {"max_position_embeddings": 64})
    assert "max_tokens 512: " in await refused(directory)
    write("config.json", {})
    (directory / "2_Dense").mkdir()
    assert "2_Dense" in await refused(directory)


async def test_a_model_of_another_kind_is_refused(directory: Path) -> None:
    (directory / "model.onnx").write_bytes(network(inputs=("input_ids", "pixel_values")))
    assert "wants pixel_values" in await refused(directory)
    (directory / "model.onnx").write_bytes(network(inputs=("input_ids",), kind=TensorProto.INT64))
    assert await vectors(directory) == pytest.approx(MEAN)
    pooled = onnx.load_from_string(network(pooled=True))
    del pooled.graph.output[0]
    (directory / "model.onnx").write_bytes(pooled.SerializeToString())
    assert "is pooled already" in await refused(directory, Use("mean"))
    assert await vectors(directory) == pytest.approx(CLS)


async def test_a_model_that_fails_on_long_texts_is_refused(directory: Path) -> None:
    """The table has no row for the last word of the vocabulary."""
    made = tokenizer()
    made.model = models.WordLevel({**{w: i for i, w in enumerate(WORDS)}, "word": 99}, "[UNK]")
    made.save(str(directory / "tokenizer.json"))
    assert "the model fails on a text" in await refused(directory)
