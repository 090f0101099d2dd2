"""What is observed of decoders, encoder-decoders, images and shared layers, against slow computations."""

import gc
import weakref

import numpy as np
import pytest
import torch
from oracles import oracle_separation
from scipy.spatial.distance import jensenshannon
from transformers import BartConfig, BartForSequenceClassification, LlamaConfig, LlamaForSequenceClassification
from zoo import zoo_inputs, zoo_model

from cahp_plugin import CAHPConfig, select_heads
from cahp_plugin._compat import attention_maps_enabled
from cahp_plugin.errors import DataError, UnsupportedModelError
from cahp_plugin.observe import observe, prepare_batches
from cahp_plugin.observe.conditioning import CONDITIONINGS
from cahp_plugin.observe.js import MAX_DISTANCE
from cahp_plugin.observe.maps import attention_maps, map_arguments
from cahp_plugin.selectors.cahp.separation import separation_matrix
from cahp_plugin.units import attention_layers

FAMILIES = ("albert", "modernbert", "vit", "clip", "gpt2", "llama", "gemma2", "t5", "bart", "whisper")
SEQ2SEQ = ("t5", "bart", "whisper")


def similarity(output, inputs, labels):
    return -torch.nn.functional.cosine_similarity(output.text_embeds, output.image_embeds)


def batches_for(name, count=2, batch=3):
    found = []
    for seed in range(count):
        inputs = zoo_inputs(name, batch=batch, seed=seed)
        if name in SEQ2SEQ:
            inputs["decoder_attention_mask"] = torch.ones_like(inputs["decoder_input_ids"])
            inputs["decoder_attention_mask"][-1, 4:] = 0
            inputs["labels"] = (
                inputs["decoder_input_ids"].roll(-1, 1).masked_fill(inputs["decoder_input_ids"] == 0, -100)
            )
        found.append(inputs)
    return found


def maps_of(model, inputs):
    """Of each attention layer: unit maps (batch, units, queries, keys), real queries, real keys, kind."""
    inputs = {name: value for name, value in inputs.items() if name != "labels"}
    with torch.no_grad(), attention_maps_enabled(model):
        output = model(**inputs, output_attentions=True)
    real = inputs.get("attention_mask")
    decoder = inputs.get("decoder_attention_mask")
    if hasattr(output, "text_model_output"):
        given = {
            "causal": (output.text_model_output.attentions, real, real),
            "self": (output.vision_model_output.attentions, None, None),
        }
    elif decoder is not None:
        given = {
            "self": (output.encoder_attentions, real, real),
            "causal": (output.decoder_attentions, decoder, decoder),
            "cross": (output.cross_attentions, decoder, real),
        }
    else:
        given = dict.fromkeys(("self", "causal"), (output.attentions, real, real))
    layers = attention_layers(model)
    of_kind = {kind: [layer for layer in layers if layer.pattern == kind] for kind in given}
    found = []
    for layer in layers:
        maps, queries, keys = given[layer.pattern]
        place, total = of_kind[layer.pattern].index(layer), len(of_kind[layer.pattern])
        shared = [depth for depth in range(len(maps)) if depth * total // len(maps) == place]  # ALBERT's groups
        own = torch.stack([maps[depth] for depth in shared]).double().mean(dim=0)
        own = own.unflatten(1, (len(layer.units), -1)).mean(dim=2)
        rows = torch.ones(own.shape[0], own.shape[2]) if queries is None else queries
        columns = torch.ones(own.shape[0], own.shape[3]) if keys is None else keys
        found.append((own.numpy(), rows.bool().numpy(), columns.bool().numpy(), layer.pattern))
    return found


def oracle_distances(model, batches):
    kinds = [kind for maps, _, _, kind in maps_of(model, batches[0]) for _ in range(maps.shape[1])]
    total, count = np.zeros((len(kinds),) * 2), np.zeros((len(kinds),) * 2)
    for inputs in batches:
        layers = maps_of(model, inputs)
        for kind in set(kinds):
            members = np.flatnonzero(np.array(kinds) == kind)
            own = [layer for layer in layers if layer[3] == kind]
            for row in range(len(own[0][0])):
                maps = np.concatenate([layer[0][row] for layer in own])
                for query in np.flatnonzero(own[0][1][row]):
                    p = maps[:, query][:, own[0][2][row]]
                    total[np.ix_(members, members)] += [[jensenshannon(a, b) for a in p] for b in p]
                    count[np.ix_(members, members)] += 1
    found = np.where(count > 0, total / np.maximum(count, 1), MAX_DISTANCE)
    np.fill_diagonal(found, 0)
    return found


def run(model, batches, conditioning, loss=None, size=5, max_queries=None):
    how, layers = CONDITIONINGS[conditioning], attention_layers(model)
    config = CAHPConfig(conditioning=conditioning, signature_size=size, salience_share=1.0, max_queries=max_queries)
    return observe(model, layers, prepare_batches(batches, model, how), config, how, loss)


@pytest.mark.parametrize("name", FAMILIES)
def test_distances_equal_the_oracle(name):
    model, batches = zoo_model(name), batches_for(name)
    seen = run(model, batches, "none", similarity if name == "clip" else None)
    np.testing.assert_allclose(seen.distances, oracle_distances(model, batches), atol=3e-4)
    count = sum(len(layer.units) for layer in attention_layers(model))
    assert seen.distances.shape == (count,) * 2
    assert seen.salience.shape == (count,) and np.isfinite(seen.salience).all()


def padded(count=12, classes=3):
    """Text of several lengths with labels, that ends in the end token (which BART's classifier reads)."""
    generator = torch.Generator().manual_seed(0)
    ids, mask = torch.zeros(count, 9, dtype=torch.long), torch.zeros(count, 9, dtype=torch.long)
    for row in range(count):
        length = 4 + row % 6
        ids[row, :length] = torch.randint(3, 100, (length,), generator=generator)
        ids[row, length - 1] = 2
        mask[row, :length] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.arange(count) % classes}


def classifier(name):
    torch.manual_seed(0)
    if name == "llama":
        config = LlamaConfig(
            vocab_size=100, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2, num_labels=3,
        )  # fmt: skip
        config._attn_implementation = "eager"
        return LlamaForSequenceClassification(config).eval()
    if name == "bart":
        config = BartConfig(
            vocab_size=100, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
            decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=40,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=2, num_labels=3,
        )  # fmt: skip
        config._attn_implementation = "eager"
        return BartForSequenceClassification(config).eval()
    return zoo_model(name)


@pytest.mark.parametrize("name", ["llama", "bart", "vit", "albert"])
def test_separation_of_classes_equals_the_oracle(name):
    model, size = classifier(name).double(), 5
    inputs = padded(classes=int(model.config.num_labels))
    if name == "vit":
        pixels = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        inputs = {"pixel_values": pixels, "labels": inputs["labels"]}
    seen = run(
        model, [{key: value[:7] for key, value in inputs.items()}, {k: v[7:] for k, v in inputs.items()}], "label"
    )
    if name == "bart":  # the decoder reads the shifted input
        shifted = torch.cat([torch.ones(12, 1, dtype=torch.long), inputs["attention_mask"][:, :-1]], dim=1)
        inputs["decoder_attention_mask"] = shifted
    layers = maps_of(model, inputs)
    signatures = []
    for row, label in enumerate(inputs["labels"].tolist()):
        heads = []
        for maps, queries, keys, _ in layers:
            cropped = torch.from_numpy(maps[row][:, queries[row]][:, :, keys[row]])
            resized = torch.nn.functional.interpolate(cropped[None], size=(size, size), mode="bilinear")[0]
            heads += list(resized.numpy())
        signatures.append((label, np.stack(heads)[None]))
    expected = oracle_separation(signatures)
    np.testing.assert_allclose(separation_matrix(seen.mean, seen.variance), expected, atol=1e-5 * expected.max())


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_salience_of_language_models_equals_one_pass_per_example(name):
    model, batches = zoo_model(name), batches_for(name, count=1)
    seen = run(model, batches, "none")
    layers, expected = attention_layers(model), {}
    for row in range(3):
        real = batches[0]["attention_mask"][row].bool()
        alone = {"input_ids": batches[0]["input_ids"][row][real][None]}
        if name == "t5":
            kept = batches[0]["decoder_attention_mask"][row].bool()
            for key in ("decoder_input_ids", "labels"):
                alone[key] = batches[0][key][row][kept][None]
            batches[0]["labels"][row][~kept] = -100
        else:
            alone["labels"] = alone["input_ids"]
            alone["position_ids"] = real.nonzero().T  # left padding: the model was given no other positions
        masks = [torch.ones(len(layer.units), requires_grad=True) for layer in layers]
        handles = [
            layer.output.register_forward_pre_hook(
                lambda module, inputs, mask=mask: (
                    (inputs[0].unflatten(-1, (len(mask), -1)) * mask[:, None]).flatten(-2),
                )
            )
            for layer, mask in zip(layers, masks, strict=True)
        ]
        for index, gradient in enumerate(torch.autograd.grad(model(**alone).loss, masks)):
            expected[index] = expected.get(index, 0) + gradient.abs().numpy() / 3
        for handle in handles:
            handle.remove()
    if name == "t5":
        seen = run(model, batches, "none")
    in_order = np.concatenate([expected[layer.index] for layer in layers])
    np.testing.assert_allclose(seen.salience, in_order, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "bart", "whisper", "vit", "clip"])
def test_heads_of_every_family_are_selected(name):
    model, batches = zoo_model(name), batches_for(name, count=3)
    config = CAHPConfig(conditioning="none", max_queries=4, num_heads=0.5)
    loss = similarity if name == "clip" else None
    selection = select_heads(model, batches, config, loss=loss)
    layers = attention_layers(model)
    assert selection.num_present == sum(len(layer.heads) for layer in layers)
    assert abs(selection.num_heads - 0.5 * selection.num_present) <= selection.group_size / 2
    for layer in layers:
        kept = set(selection.kept.heads[layer.index])
        assert kept <= set(layer.heads) and all(len(kept & set(unit)) in (0, len(unit)) for unit in layer.units)
    assert selection.to_dict() == select_heads(model, batches, config, loss=loss).to_dict()


def test_images_are_compared_by_labels_and_predictions():
    model = zoo_model("vit")
    generator = torch.Generator().manual_seed(0)
    images = [
        {"pixel_values": torch.randn(8, 3, 8, 8, generator=generator), "labels": torch.arange(8) % 3} for _ in range(3)
    ]
    with torch.no_grad():  # a random classifier prefers one class
        logits = torch.cat([model(pixel_values=batch["pixel_values"]).logits for batch in images])
        model.classifier.bias -= logits.mean(dim=0)
    for conditioning in ("label", "prediction"):
        selection = select_heads(model, images, CAHPConfig(conditioning=conditioning))
        assert selection.config.signature_size == 5  # four patches and the class token
        assert selection.separation.shape[1] % 25 == 0


def test_language_models_have_no_classes():
    labelled = [batch | {"labels": torch.tensor([0, 1] * 2)} for batch in batches_for("gpt2", batch=4)]
    for conditioning in ("label", "prediction"):
        with pytest.raises((UnsupportedModelError, DataError), match=r"logits of shape \(1, 9, 100\)|2 classes"):
            select_heads(zoo_model("gpt2"), labelled, CAHPConfig(conditioning=conditioning))


def test_text_and_images_of_one_model_need_no_loss():
    found = select_heads(zoo_model("clip"), batches_for("clip"), CAHPConfig(num_heads=0.5))
    assert found.config.conditioning == "none" and found.num_heads == found.num_present // 2
    with pytest.raises(UnsupportedModelError, match="gives no logits"):
        select_heads(zoo_model("clip"), batches_for("clip"), CAHPConfig(conditioning="prediction"))


def test_classes_that_no_memory_holds_are_told_before_the_walk(monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"total": 1000}))
    monkeypatch.setattr("cahp_plugin.selectors.base.observe", lambda *_, **__: pytest.fail("the walk began"))
    with pytest.raises(DataError, match=r"Comparing 3 classes pair by pair at 9 x 9 cells.*`conditioning=\"none\"`"):
        select_heads(classifier("llama"), [padded()], CAHPConfig(signature_size=9))


def test_one_layers_maps_are_held_at_a_time():
    model, inputs = zoo_model("llama"), zoo_inputs("llama")
    layers, seen = attention_layers(model), []
    alive = []

    def consume(position, maps):
        gc.collect()
        alive.append(sum(ref() is not None for ref in seen))
        seen.append(weakref.ref(maps))

    with torch.inference_mode(), attention_maps(model, layers, consume):
        output = model(**inputs, **map_arguments(model, layers))
    assert len(seen) == len(layers) and max(alive) <= 1
    assert not getattr(output, "attentions", None) or all(maps is None for maps in output.attentions)
