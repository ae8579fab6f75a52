"""Makes sample.jsonl: reviews of films that do not exist, in Telugu, put together from phrases by a seeded generator.

A review is an opening, two or three judgements on what a film is made of (singular or plural, as Telugu's verbs ask
for) and often a closing; its label is the tone of its judgements. `python -m recipes.siamese_sentiment.sample` prints
the file, and a test compares it with the one that ships.
"""

import json
import random

MOVIES = (
    "వెన్నెల దారి", "గోదావరి కెరటం", "ఏడో మలుపు", "నీలి మేఘం", "చివరి ఉత్తరం", "మల్లెల వాన",
    "సంక్రాంతి ముగ్గు", "అల్లరి తమ్ముడు", "పల్లె పిలుపు", "సముద్రం సాక్షిగా", "రెండో ఉదయం", "మౌన గీతం",
)  # fmt: skip
OPENINGS = (
    "{movie} సినిమా చూశాను.", "నిన్న {movie} చూశాం.", "కుటుంబంతో కలిసి {movie} చూశాను.", "{movie} గురించి నా అభిప్రాయం:",
    "స్నేహితులతో {movie} కి వెళ్లాను.", "ఎన్నో అంచనాలతో {movie} చూశాను.", "{movie} మొదటి రోజే చూశాను.",
)  # fmt: skip
ONE = (
    "కథ", "కథనం", "నటన", "సంగీతం", "దర్శకత్వం", "హాస్యం", "ఛాయాగ్రహణం", "నేపథ్య సంగీతం", "ద్వితీయార్ధం", "ముగింపు",
    "హీరో పాత్ర", "నాయిక నటన", "కూర్పు",
)  # fmt: skip
MANY = ("పాటలు", "మాటలు", "పోరాట సన్నివేశాలు", "భావోద్వేగ సన్నివేశాలు", "పాత్రలు", "సెట్టింగులు")
ABOUT_ONE = {
    "positive": (
        "అద్భుతంగా ఉంది", "చాలా బాగుంది", "మనసుకు హత్తుకుంది", "ఎంతో ఆకట్టుకుంది", "కట్టిపడేసింది", "అదిరిపోయింది",
        "కొత్తగా ఉంది", "కంటతడి పెట్టించింది",
    ),
    "negative": (
        "చాలా నీరసంగా ఉంది", "నిరాశపరిచింది", "అస్సలు బాగోలేదు", "విసుగు తెప్పించింది", "దారుణంగా ఉంది",
        "ఏమాత్రం ఆకట్టుకోలేదు", "తేలిపోయింది", "సాగదీతగా ఉంది",
    ),
    "neutral": (
        "పర్వాలేదనిపించింది", "సాధారణంగా ఉంది", "ఓ మోస్తరుగా ఉంది", "అంతంతమాత్రంగా ఉంది", "ఫర్వాలేదు",
        "మామూలుగానే ఉంది", "ఊహించినట్టే ఉంది",
    ),
}  # fmt: skip
ABOUT_MANY = {
    "positive": ("అద్భుతంగా ఉన్నాయి", "చాలా బాగున్నాయి", "ఎంతో ఆకట్టుకున్నాయి", "మనసుకు హత్తుకున్నాయి", "అదిరిపోయాయి"),
    "negative": ("దారుణంగా ఉన్నాయి", "అస్సలు బాగోలేవు", "విసుగు తెప్పించాయి", "నిరాశపరిచాయి", "ఏమాత్రం ఆకట్టుకోలేదు"),
    "neutral": ("సాధారణంగా ఉన్నాయి", "ఓ మోస్తరుగా ఉన్నాయి", "పర్వాలేదనిపించాయి", "మామూలుగానే ఉన్నాయి"),
}
CLOSINGS = {
    "positive": ("తప్పకుండా చూడండి!", "మళ్లీ మళ్లీ చూడాలనిపిస్తుంది.", "ఈ ఏడాది వచ్చిన మంచి సినిమా ఇదే.", "చూసి తీరాలి!"),
    "negative": ("డబ్బు దండగ.", "సమయం వృథా అయింది.", "చూడకపోవడమే మంచిది.", "మధ్యలోనే లేచి వచ్చేశాం."),
    "neutral": ("ఖాళీ ఉంటే ఒకసారి చూడొచ్చు.", "పెద్దగా చెప్పుకోవడానికి ఏమీ లేదు.", "ఒకసారి చూస్తే సరిపోతుంది."),
}
LABELS = ("positive", "negative", "neutral")


def reviews(count: int = 500, seed: int = 2026) -> list[dict[str, str]]:
    """Distinct reviews {text, label, movie}, the three labels in rotation."""
    rng = random.Random(seed)
    made: dict[str, dict[str, str]] = {}
    while len(made) < count:
        label = LABELS[len(made) % len(LABELS)]
        movie = rng.choice(MOVIES)
        text = _review(rng, label, movie)
        made.setdefault(text, {"text": text, "label": label, "movie": movie})
    return list(made.values())


def _review(rng: random.Random, label: str, movie: str) -> str:
    parts = [rng.choice(OPENINGS).format(movie=movie)]
    for subject in rng.sample(ONE + MANY, rng.choice((2, 2, 3))):
        verdicts = ABOUT_MANY if subject in MANY else ABOUT_ONE
        parts.append(f"{subject} {rng.choice(verdicts[label])}.")
    if rng.random() < 0.7:
        parts.append(rng.choice(CLOSINGS[label]))
    return " ".join(parts)


if __name__ == "__main__":
    for review in reviews():
        print(json.dumps(review, ensure_ascii=False))
