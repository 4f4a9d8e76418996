"""SentEval's probes, against the protocol written out plainly."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold

from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.suites.linear_probe import fit
from pipeline_lib.evaluation.suites.registry import open_model, open_suite

GRID = (0.25, 2.0, 16.0)
WORDS = {"pos": "good fine great bright warm".split(), "neg": "bad dull grim cold bleak".split()}


@pytest.fixture
def small(config):
    return config.model_copy(update={"folds": 3, "inverse_regularisation": GRID})


def sentences(label: str, n: int, seed: int) -> list[str]:
    """Mostly words of the label, some of the other, so that no C is perfect."""
    random = np.random.default_rng([seed, len(label), label == "pos"])
    both = WORDS[label] * 2 + WORDS["pos"] + WORDS["neg"]
    return [" ".join(random.choice(both, 4)) + f" {random.integers(30)}" for _ in range(n)]


def write_mr(put, n=40):
    for label in ("pos", "neg"):
        put(f"senteval/MR/rt-polarity.{label}", "\n".join(sentences(label, n, 1)) + "\n", "latin-1")


def plain_fit(train_ND, labels, c):
    return LogisticRegression(C=c, max_iter=5000, tol=1e-8).fit(train_ND, labels)


def plain_inner(emb_ND, labels, folds, seed):
    """SentEval's inner cross-validation: the C of the best mean accuracy over the folds."""
    means = []
    for c in GRID:
        split = StratifiedKFold(folds, shuffle=True, random_state=seed).split(emb_ND, labels)
        means.append(np.mean([(plain_fit(emb_ND[a], labels[a], c).predict(emb_ND[b]) == labels[b]).mean() for a, b in split]))
    return GRID[int(np.argmax(np.array(means) > max(means) - 1e-12))]


def test_nested_cross_validation_is_the_protocol_written_out(put, data, small, encoder, embed_words):
    write_mr(put)
    result = open_suite("mr", data, small).run(encoder, "test")
    texts = [" ".join(text.split()) for label in ("pos", "neg") for text in sentences(label, 40, 1)]
    labels, emb_ND = np.array(["pos"] * 40 + ["neg"] * 40), embed_words(texts).astype(float)
    right, chosen = np.zeros(80), []
    for train, held_out in StratifiedKFold(3, shuffle=True, random_state=small.seed).split(emb_ND, labels):
        chosen.append(plain_inner(emb_ND[train], labels[train], 3, small.seed))
        right[held_out] = plain_fit(emb_ND[train], labels[train], chosen[-1]).predict(emb_ND[held_out]) == labels[held_out]
    assert result.figures[0].interval.value == right.mean() and 0.5 < right.mean() < 1
    assert list(result.figures[0].values) == list(right)
    assert result.facts["inverse_regularisation"] == chosen


def test_mrpc_compares_u_and_v_and_reports_f1(put, data, small, encoder, embed_words):
    header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    pairs = {}
    for part, seed in (("train", 1), ("test", 2)):
        left, right = sentences("pos", 60, seed), sentences("neg", 60, seed)
        pairs[part] = [(str(n % 2), left[n], left[n] + " again" if n % 2 else right[n]) for n in range(60)]
        pairs[part][0] = ("1", *pairs[part][0][1:])
        rows = "".join(f"{quality}\t{n}\t{n}\t{a}\t{b}\n" for n, (quality, a, b) in enumerate(pairs[part]))
        put(f"MRPC/msr_paraphrase_{part}.txt", header + rows)
    result = open_suite("mrpc", data, small).run(encoder, "test")

    def features(rows):
        u, v = (embed_words([row[side] for row in rows]).astype(float) for side in (1, 2))
        return np.hstack([np.abs(u - v), u * v]), np.array([row[0] for row in rows])

    (x_train, y_train), (x_test, y_test) = features(pairs["train"]), features(pairs["test"])
    c = plain_inner(x_train, y_train, 3, small.seed)
    predicted = plain_fit(x_train, y_train, c).predict(x_test)
    by_metric = {figure.metric: figure.interval.value for figure in result.figures}
    assert by_metric["accuracy"] == (predicted == y_test).mean()
    assert by_metric["f1"] == pytest.approx(f1_score(y_test == "1", predicted == "1"))
    assert by_metric["macro_f1"] == pytest.approx(f1_score(y_test, predicted, average="macro"))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mrpc_as_it_is_downloaded(put, data, small, suffix):
    """A byte order mark, CRLF, open quotes, and a character that splits lines elsewhere."""
    header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
    rows = '1\t10\t11\t" He said so\tIt \u2028 was " said\r\n0\t12\t13\t$ 5 caf\xe9\tnone\r\n'
    put(f"MRPC/msr_paraphrase_test.txt{suffix}", header + rows, "utf-8-sig")
    found = [example[1:] for example in open_suite("mrpc", data, small).labelled.examples(data, "test")]
    assert found == [("1", '" He said so', 'It \u2028 was " said'), ("0", "$ 5 caf\xe9", "none")]


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        (
            "sst2",
            "SST/binary/sentiment-test",
            "sentence\tlabel\n",
            "sentiment-test-1 is labelled 'label', expected one of 0, 1",
        ),
        ("sst2", "SST/binary/sentiment-test", "fine\t1\ndull\t\n", "sentiment-test-2 is labelled '', expected one of 0, 1"),
        (
            "trec",
            "TREC/TREC_10.label",
            "Time to go: what now\n",
            "TREC_10.label-1 is labelled 'Time to go', expected one of ABBR",
        ),
        (
            "mrpc",
            "MRPC/msr_paraphrase_test.txt",
            "Quality\t#1\t#2\tA\tB\n7\t1\t2\ta\tb\n",
            "msr_paraphrase_test.txt-1 is labelled '7'",
        ),
        ("probe/own", "labelled/own/test.tsv", "fine\t \n", "test.tsv-1 is labelled '', expected a label"),
    ],
)
def test_an_example_of_no_class_of_the_set_is_refused(put, data, small, name, file, content, message):
    """A header that the official file has not, a label that is cut off, a file of another set."""
    put(file, content)
    with pytest.raises(UserError, match=rf"{file}: {message}"):
        open_suite(name, data, small).labelled.examples(data, "test")


def test_each_file_of_a_set_must_hold_an_example(put, data, small):
    put("MR/rt-polarity.pos", "fine\n")
    put("MR/rt-polarity.neg", "")
    with pytest.raises(UserError, match=r"mr: .*rt-polarity.neg holds no example; get it from SentEval"):
        open_suite("mr", data, small).labelled.examples(data, "pool")


def write_sst(put, parts=("train", "dev", "test")):
    for part in parts:
        rows = [(text, label == "pos") for label in ("pos", "neg") for text in sentences(label, 30, len(part))]
        put(f"SST/binary/sentiment-{part}.gz", "".join(f"{text}\t{int(label)}\n" for text, label in rows))


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("mr", ("MR/rt-polarity.pos", "MR/rt-polarity.neg")),
        ("cr", ("CR/custrev.pos", "CR/custrev.neg")),
        ("subj", ("SUBJ/subj.objective", "SUBJ/subj.subjective")),
        ("mpqa", ("MPQA/mpqa.pos", "MPQA/mpqa.neg")),
    ],
)
def test_sets_of_a_file_a_class(put, data, small, name, files):
    """One sentence a line in latin-1, the class by the file; one file missing is said with its place and source."""
    suite = open_suite(name, data, small)
    put(f"senteval/{files[0]}", "a caf\xe9  one\n\nb two\n", "latin-1")
    with pytest.raises(UserError, match=rf"{files[1]} is not there.*facebookresearch/SentEval"):
        suite.paths("test")
    put(f"senteval/{files[1]}.gz", "c three\n", "latin-1")
    labels = [path.rsplit(".", 1)[1] for path in files]
    found = [(example.label, example.text) for example in suite.labelled.examples(data, "pool")]
    assert found == [(labels[0], "a café one"), (labels[0], "b two"), (labels[1], "c three")]


def test_validation_never_opens_the_test(put, data, small, encoder):
    write_sst(put, ("train", "dev"))  # there is no test file to open
    suite = open_suite("sst2", data, small)
    assert [path.name for path in suite.paths("validation")] == ["sentiment-train.gz", "sentiment-dev.gz"]
    result = suite.run(encoder, "validation")
    assert result.figures[0].interval.n == 60
    with pytest.raises(UserError, match="sentiment-test is not there"):
        suite.run(encoder, "test")


def test_c_is_chosen_on_validation(put, data, small, encoder, embed_words):
    write_sst(put)
    suite = open_suite("sst2", data, small)
    parts = {part: suite.labelled.examples(data, part) for part in ("train", "validation", "test")}
    x = {part: embed_words([example.text for example in rows]).astype(float) for part, rows in parts.items()}
    y = {part: np.array([example.label for example in rows]) for part, rows in parts.items()}
    accuracy = [(plain_fit(x["train"], y["train"], c).predict(x["validation"]) == y["validation"]).mean() for c in GRID]
    c = GRID[int(np.argmax(accuracy))]
    expected = (plain_fit(x["train"], y["train"], c).predict(x["test"]) == y["test"]).mean()
    result = suite.run(encoder, "test")
    assert result.facts["inverse_regularisation"] == [c] and result.figures[0].interval.value == expected


def test_trec_takes_the_coarse_class_and_latin_1(put, data, small, encoder):
    rows = [f"{label}:x What is {word} caf\xe9 {n} ?" for n in range(12) for label, word in (("HUM", "who"), ("NUM", "many"))]
    put("TREC/train_5500.label", "\n".join(rows), "latin-1")
    put("TREC/TREC_10.label", "\n".join(rows[:6]), "latin-1")
    suite = open_suite("trec", data, small)
    assert suite.labelled.examples(data, "test")[0][1:3] == ("HUM", "What is who café 0 ?")
    assert suite.run(encoder, "test").figures[0].interval.value == 1.0
    assert suite.run(encoder, "validation").figures[0].interval.n == 24
    put("TREC/TREC_10.label", "no colon here\n")
    with pytest.raises(UserError, match=r"TREC_10.label, line 1: 'no colon here'"):
        suite.run(encoder, "test")


@pytest.mark.parametrize("features", ["dense", "sparse"])
def test_each_c_is_a_fit_of_its_own_and_converged(features, small):
    """More classes and features than the Newton solver takes; a start at the last C's fit must not be its end."""
    random = np.random.default_rng(1)
    x_ND = random.standard_normal((900, 400)) * np.linspace(1, 0.02, 400)
    x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
    labels = (x_ND @ random.standard_normal((400, 3)) + 0.2 * random.standard_normal((900, 3))).argmax(1).astype(str)
    probe, previous = None, None
    for c in (1.0, 32.0, 128.0):
        given = sparse.csr_matrix(x_ND) if features == "sparse" else x_ND
        probe = fit(given, labels, c, probe)
        assert probe.solver == "newton-cg"
        expected = plain_fit(x_ND, labels, c).decision_function(x_ND)
        found = probe.decision_function(x_ND)
        assert np.abs(found - expected).max() < 0.03 * np.abs(expected).max()
        assert previous is None or np.abs(found - previous).max() > 0.1 * np.abs(expected).max()
        previous = found


def test_words_are_learned_from_the_training_part_alone(put, data, small):
    """A word model that saw held-out texts would know words that only they have."""
    write_mr(put, 15)
    model = open_model("tfidf")
    seen = []
    plain = model.features
    model.features = lambda fitted, others: seen.append((set(fitted), set(others))) or plain(fitted, others)
    open_suite("mr", data, small).run(model, "test")
    assert seen and all(others - fitted for fitted, others in seen)
    assert open_suite("mr", data, small).run(model, "test").figures[0].interval.n == 30


def test_shared_sets_have_their_published_sizes(eval_data, small):
    found = {
        (name, split): len(open_suite(name, eval_data, small).labelled.examples(eval_data, split))
        for name in ("sst2", "trec")
        for split in ("train", "test")
    }
    assert found == {("sst2", "train"): 67349, ("sst2", "test"): 1821, ("trec", "train"): 5452, ("trec", "test"): 500}


def test_too_few_examples_for_the_folds_are_refused(put, data, small, encoder):
    write_mr(put, 4)
    with pytest.raises(UserError, match=r"mr: .* are 4 of 'neg', 4 of 'pos'; expected two classes with 5 or more"):
        open_suite("mr", data, small).run(encoder, "test")
    write_mr(put, 5)
    assert open_suite("mr", data, small).run(encoder, "test").figures[0].interval.n == 10
    for part in ("train", "dev"):
        put(f"labelled/mail/{part}.tsv", "buy now\tspam\n")
    with pytest.raises(
        UserError, match=r"probe/mail: the training examples are 1 of 'spam'; expected two classes with 1 or more"
    ):
        open_suite("probe/mail", data, small).run(encoder, "validation")
