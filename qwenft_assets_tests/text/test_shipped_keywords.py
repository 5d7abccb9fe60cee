"""The keyword lists that come with the project: compact, without repeats, and not misled."""

import pyarrow as pa
import pytest

from qwenft_assets.config import SourceName
from qwenft_assets.sources.stackexchange import shipped_keywords
from qwenft_assets.text.keywords import KeywordMatcher

DOMAINS: tuple[SourceName, ...] = ("stackexchange_ai", "stackexchange_ic", "stackexchange_biomed")
OFF_TOPIC: dict[SourceName, tuple[str, ...]] = {
    "stackexchange_ai": (
        "The power transformer winding hums at 50 Hz.",
        "I count passengers at a train station in 10-minute slots.",
        "Depth-first exploration of a graph",
        "How do I free memory in C++ with a model-view pattern?",
        "Please pay attention to the SQL query below.",
        "A planar embedding of a graph has no crossings.",
        "Is my estate agent allowed to keep the deposit?",
        "Convert the Unix epoch to a date.",
        "Store the authentication token in a cookie.",
        "The school dropout rate fell.",
        "A diesel generator in the cellar",
        "The shell prompt shows no colours.",
        "Car pooling saves fuel.",
        "The privacy policy of the agent",
        "Adam and Eve sat under a decision-making tree.",
        "my lora_rank variable, an svm in lower case, a gan, a rag",
        "The A* rating of a fridge",
        "A PhD in physics from a llamas farm",
    ),
    "stackexchange_ic": (
        "He lost his post; my social studies teacher seldom gives a source.",
        "The garden gate squeaks.",
        "The drain of my sink is blocked, and the source is unknown.",
        "The child was grounded; the ground is wet.",
        "All animals die in the end.",
        "The package arrived late, with chocolate chip biscuits.",
        "A wall clock with a crystal glass",
        "A kitchen timer rings.",
        "The cash register buffer overflows.",
        "He tried to interrupt me at the garden latch.",
        "The water regulator leaks.",
        "An amplifier of rumours",
        "Romeo 7400 rows, 7431 rows, 74 cars",
        "the adc, an asic, a spice market, an ic",
        "Headcount: forty; slides get circuitous.",
        "MSC in economics, SOCIAL, DACHA, SPICES",
        "The mayor of Cologne has a boss named Hertz.",
    ),
    "stackexchange_biomed": (
        "Articles in the journal of internal medicine-free prose",
        "The tree must generate it before dropping the leaf; I am impatient.",
        "Be patient with your router.",
        "A battery cell with a cracked lid",
        "Two cells of the table are merged.",
        "Corporate culture eats strategy.",
        "The regular expression does not match.",
        "My laptop caught a computer virus.",
        "The video went viral.",
        "The strain gauge bridge drifts.",
        "An eigenvector or a unit vector in the plane",
        "A coat of primer before the paint",
        "Hair gel does not dry.",
        "EDTA is a hexadentate ligand of calcium.",
        "The half-life of carbon-14 is 5730 years.",
        "The Great Depression of 1929",
        "He plays the church organ.",
        "an atp tournament, an external drive, a bam sound, vcf in lower case",
    ),
}
ON_TOPIC: dict[SourceName, tuple[tuple[str, str], ...]] = {
    "stackexchange_ai": (
        ("Why does the transformer need an encoder?", "transformer"),
        ("The attention of a decoder", "attention"),
        ("The cosine similarity of an embedding", "embedding"),
        ("The agent gets no reward.", "agent"),
        ("After one epoch the validation loss rises.", "epoch"),
        ("gpt-4o and GPT2", "GPT version"),
        ("A t-SNE plot, a tsne plot", "t-SNE"),
    ),
    "stackexchange_ic": (
        ("Tie the gate to the drain.", "gate"),
        ("two OpAmps, an op amp", "op-amp"),
        ("A 74HC595, an SN74LS00N", "74xx logic"),
        ("the 7400 series", "74xx logic"),
        ("An LM358 as a buffer", "LM part"),
        ("Does an L7805 need a heatsink?", "78xx regulator"),
        ("a die on silicon", "die"),
        ("my I²C bus", "I²C"),
        ("<p>V<sub>GS</sub> of 2 V</p>", "Vgs or Vds"),
    ),
    "stackexchange_biomed": (
        ("How does a cell divide its nucleus?", "cell"),
        ("Grown on agar, the culture smells.", "culture"),
        ("The promoter decides the expression.", "expression"),
        ("A virus with a capsid", "virus"),
        ("E. coli at 37 °C", "E. coli"),
        ("IL-6 and TNF", "interleukin"),
        ("CD4+ T cells", "CD marker"),
        ("A 27 kDa band", "kilodalton"),
    ),
}


@pytest.mark.parametrize("source", DOMAINS)
def test_shipped_list_compiles_and_repeats_nothing(source):
    rules = shipped_keywords(source)
    matcher = KeywordMatcher(rules)
    for keyword in (*rules.words, *rules.acronyms):
        assert keyword in matcher.hits(f"about {keyword} here")
    for keyword, context in rules.with_context.items():
        for word in context:
            assert keyword in matcher.hits(f"about {keyword} and {word}"), (keyword, word)
        assert keyword not in matcher.hits(f"about {keyword} here")
    everything = [*rules.words, *rules.acronyms, *rules.with_context, *rules.patterns]
    lowered = [keyword.lower() for keyword in everything]
    assert len(lowered) == len(set(lowered)) >= 100
    assert min(len(kind) for kind in rules.model_dump().values()) >= 4


def each(table):
    return [pytest.param(source, case) for source, cases in table.items() for case in cases]


@pytest.mark.parametrize(("source", "text"), each(OFF_TOPIC))
def test_trap_is_not_on_topic(source, text):
    matcher = KeywordMatcher(shipped_keywords(source))
    assert matcher.hits(text) == []
    assert matcher.mask(pa.chunked_array([[text]])).to_pylist() == [False]


@pytest.mark.parametrize(("source", "case"), each(ON_TOPIC))
def test_ambiguous_word_or_symbol_is_found(source, case):
    text, keyword = case
    matcher = KeywordMatcher(shipped_keywords(source))
    assert keyword in matcher.hits(text)
    assert matcher.mask(pa.chunked_array([[text]])).to_pylist() == [True]


def test_other_trades_text_is_on_topic_once():
    text = "The transformer of a 5 V supply drives the gate of a MOSFET with a drain resistor."
    on_topic = [source for source in DOMAINS if KeywordMatcher(shipped_keywords(source)).hits(text)]
    assert on_topic == ["stackexchange_ic"]
