"""What the voices say: words for training, sentences for tests.

Training hears random sequences of words; tests hear sentences of the Harvard lists (IEEE 1969),
so that no text of a test was trained on.
"""

from __future__ import annotations

import numpy as np

_ENGLISH = """
time year people way day man thing woman life child world school state family student group
country problem hand part place case week company system program question work government number
night point home water room mother area money story fact month lot right study book eye job word
business issue side kind head house service friend father power hour game line end member law car
city community name president team minute idea kid body information back parent face others level
office door health person art war history party result change morning reason research girl guy
moment air teacher force education foot boy age policy music market sense nation plan college
interest death course someone experience behind always never often maybe together already almost
enough around under between without before after above below across toward against during about
above yellow purple orange green blue red white black brown silver golden happy sad angry quiet
loud gentle strong weak early late young old new small large huge tiny warm cold hot cool bright
dark soft hard smooth rough sweet sour bitter fresh empty full heavy light quick slow deep high
low wide narrow thick thin clean dirty simple funny serious strange lovely ugly brave clever
window table chair kitchen bedroom garden river mountain ocean island forest valley desert bridge
street corner village castle church tower engine wheel paper pencil letter picture mirror button
pocket jacket shoe shirt hat glove ring bottle cup spoon fork knife plate bread butter cheese apple
banana cherry lemon onion potato tomato pepper sugar coffee chocolate chicken fish beef rabbit tiger
elephant monkey horse sheep mouse spider butterfly bird feather flower leaf branch thunder weather
winter summer autumn spring rain snow wind cloud moon sun star shadow fire smoke earth stone sand
wave shore boat ship voyage journey road path measure pleasure treasure vision usual garage joy
judge jungle magic village change chance choose cheap watch catch teach thank think three through
thumb both mouth truth breathe father mother brother weather this that those voice choice noise
point boil shout mouse allow power flow grow show throw boat goat fly cry sky smile while five
seven eleven nothing everything anybody hello goodbye please sorry welcome yes no okay mama papa
maybe above move prove food moon cool school boots spoon wool book look push pull put shoe
sing long young finger hungry think bank king queen quick square question language yesterday
"""

_OTHER = {
    "de": """
    haus baum wasser feuer himmel erde blume garten strasse fenster tisch stuhl morgen abend nacht
    freund mutter vater bruder schwester kinder apfel brot butter milch schule arbeit woche jahr
    immer niemals vielleicht gehen kommen sprechen lachen singen schlafen gut neu alt gross klein
    warm kalt blau rot weiss schwarz sieben zwei drei vier buch bild licht spiel vogel pferd
    """,
    "fr": """
    bonjour maison arbre eau feu ciel terre fleur jardin rue fenetre table chaise matin soir nuit
    ami frere soeur enfant pomme pain beurre lait bureau travail semaine toujours jamais aller
    venir parler rire chanter dormir bon nouveau vieux grand petit chaud froid bleu rouge blanc
    noir sept deux trois quatre livre image jeu oiseau cheval montagne ville musique lumiere
    """,
    "es": """
    hola casa agua fuego cielo tierra flor jardin calle ventana mesa silla noche amigo madre padre
    hermano hermana manzana pan leche escuela trabajo semana siempre nunca quizas hablar cantar
    dormir bueno nuevo viejo grande chico caliente frio azul rojo blanco negro siete dos tres
    cuatro libro imagen luz juego pajaro caballo ciudad musica lluvia guitarra perro gato
    """,
    "it": """
    ciao casa albero acqua fuoco cielo terra fiore giardino strada finestra tavolo sedia mattina
    sera notte amico madre padre fratello sorella mela pane burro latte scuola lavoro settimana
    sempre mai forse parlare ridere cantare dormire buono nuovo vecchio grande piccolo caldo freddo
    blu rosso bianco nero sette due tre quattro libro luce gioco uccello cavallo montagna musica
    """,
}

WORDS: dict[str, tuple[str, ...]] = {
    "en": tuple(dict.fromkeys(_ENGLISH.split())),
    **{language: tuple(dict.fromkeys(text.split())) for language, text in _OTHER.items()},
}
"""Words of training by language."""

TEST_SENTENCES: tuple[str, ...] = (
    "The birch canoe slid on the smooth planks.",
    "Glue the sheet to the dark blue background.",
    "It's easy to tell the depth of a well.",
    "These days a chicken leg is a rare dish.",
    "Rice is often served in round bowls.",
    "The juice of lemons makes fine punch.",
    "The box was thrown beside the parked truck.",
    "The hogs were fed chopped corn and garbage.",
    "Four hours of steady work faced us.",
    "A large size in stockings is hard to sell.",
    "The boy was there when the sun rose.",
    "A rod is used to catch pink salmon.",
    "The source of the huge river is the clear spring.",
    "Kick the ball straight and follow through.",
    "Help the woman get back to her feet.",
    "A pot of tea helps to pass the evening.",
    "Smoky fires lack flame and heat.",
    "The soft cushion broke the man's fall.",
    "The salt breeze came across from the sea.",
    "The girl at the booth sold fifty bonds.",
)
"""Harvard sentences, lists 1 and 2."""

SYLLABLES: tuple[str, ...] = (
    "l'A:", "n'A:", "m'oU", "'u:", "'A:", "d'u:", "j'i:", "m'i:", "w'oU", "l'eI", "b'A:", "h'aI",
    "l'a", "'oU", "n'i:", "l'u:", "j'eI", "m'A:", "f'A:", "s'oU", "t'i:", "d'oU", "r'eI", "'eI",
)  # fmt: skip
"""Syllables to sing, in the phoneme names of espeak-ng's English."""


def training_text(
    rng: np.random.Generator, num_words: int | None = None, language: str = "en"
) -> str:
    """Draw a random sequence of words with a comma here and there.

    Args:
        rng: the source of randomness.
        num_words: how many; drawn from 2 to 8 when None.
        language: a key of WORDS.

    Returns:
        Words ending in a full stop.
    """
    count = int(rng.integers(2, 9)) if num_words is None else num_words
    words = [str(word) for word in rng.choice(WORDS[language], size=count)]
    commas = rng.random(count) < 0.12
    spoken = [word + ("," if comma else "") for word, comma in zip(words, commas, strict=True)]
    return " ".join(spoken).rstrip(",") + "."
