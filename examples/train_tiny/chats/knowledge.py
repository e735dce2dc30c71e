"""A little general knowledge: tables of facts, and the questions that ask for them."""

# ruff: noqa: E501 - tables of sentences read better unbroken
from __future__ import annotations

import random
from functools import cache
from typing import NamedTuple

from .core import Turn
from .phrasing import ask
from .stories import a
from .words import DAYS, MONTHS


class Table(NamedTuple):
    """Pairs of a thing {k} and what is known of it {v}, with the questions and the answer they share."""

    pairs: tuple[tuple[str, str], ...]
    asks: tuple[str, ...]
    answer: str


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    """`thing=value; thing=value`"""
    return tuple((key.strip(), value.strip()) for key, value in (part.split("=") for part in text.split(";")))


def _articled(pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple((a(key), value) for key, value in pairs)


_CAPITALS = _pairs(
    """France=Paris; Germany=Berlin; Italy=Rome; Spain=Madrid; Portugal=Lisbon; Austria=Vienna; Poland=Warsaw;
    Ireland=Dublin; Norway=Oslo; Sweden=Stockholm; Denmark=Copenhagen; Finland=Helsinki; Iceland=Reykjavik;
    Greece=Athens;
    Hungary=Budapest; Romania=Bucharest; Bulgaria=Sofia; Croatia=Zagreb; Serbia=Belgrade; Slovenia=Ljubljana;
    Slovakia=Bratislava; Ukraine=Kyiv; Latvia=Riga; Lithuania=Vilnius; Estonia=Tallinn; Belgium=Brussels;
    Malta=Valletta;
    Albania=Tirana; Russia=Moscow; Turkey=Ankara; Egypt=Cairo; Morocco=Rabat; Algeria=Algiers; Tunisia=Tunis;
    Kenya=Nairobi;
    Ethiopia=Addis Ababa; Ghana=Accra; Nigeria=Abuja; Senegal=Dakar; Uganda=Kampala; Japan=Tokyo; China=Beijing;
    India=New Delhi; South Korea=Seoul; Thailand=Bangkok; Vietnam=Hanoi; Indonesia=Jakarta; Malaysia=Kuala Lumpur;
    Nepal=Kathmandu; Iran=Tehran; Iraq=Baghdad; Jordan=Amman; Lebanon=Beirut; Qatar=Doha; Canada=Ottawa;
    Mexico=Mexico City;
    Cuba=Havana; Brazil=Brasilia; Argentina=Buenos Aires; Chile=Santiago; Peru=Lima; Colombia=Bogota; Ecuador=Quito;
    Venezuela=Caracas; Uruguay=Montevideo; Paraguay=Asuncion; Australia=Canberra; New Zealand=Wellington;
    Mongolia=Ulaanbaatar;
    England=London; Scotland=Edinburgh; Wales=Cardiff"""
)
_CONTINENTS = _pairs(
    """France=Europe; Germany=Europe; Italy=Europe; Spain=Europe; Poland=Europe; Norway=Europe; Greece=Europe; Hungary=Europe;
    Sweden=Europe; Portugal=Europe; Egypt=Africa; Morocco=Africa; Kenya=Africa; Ghana=Africa; Nigeria=Africa;
    Senegal=Africa;
    Tunisia=Africa; Uganda=Africa; Ethiopia=Africa; Japan=Asia; China=Asia; India=Asia; Thailand=Asia; Vietnam=Asia;
    Nepal=Asia;
    Iran=Asia; Iraq=Asia; Mongolia=Asia; Canada=North America; Mexico=North America; Cuba=North America;
    Brazil=South America;
    Chile=South America; Peru=South America; Argentina=South America; Colombia=South America; Ecuador=South America"""
)
_COLOURS = _pairs(
    """the sky=blue; grass=green; snow=white; a banana=yellow; a lemon=yellow; blood=red; coal=black; a tomato=red; milk=white;
    the sun=yellow; a carrot=orange; a pumpkin=orange; chocolate=brown; an elephant=grey; a frog=green; a flamingo=pink;
    a strawberry=red; a polar bear=white; a cucumber=green; a swan=white; salt=white; a crow=black; a plum=purple;
    honey=golden;
    a cherry=red; broccoli=green; a fire engine=red; the sea=blue; spinach=green; lavender=purple; coffee=brown;
    rice=white;
    cotton=white; a mouse=grey; a leaf=green; a peanut=brown"""
)
_OPPOSITES = _pairs(
    """hot=cold; big=small; tall=short; fast=slow; up=down; left=right; happy=sad; good=bad; light=dark; open=closed; full=empty;
    old=young; rich=poor; hard=soft; early=late; loud=quiet; wet=dry; clean=dirty; strong=weak; heavy=light; thick=thin;
    wide=narrow; deep=shallow; high=low; near=far; first=last; day=night; black=white; love=hate; win=lose; buy=sell;
    begin=end; inside=outside; above=below; push=pull; yes=no; true=false; always=never; more=less; summer=winter;
    sweet=sour;
    friend=enemy; brave=cowardly; sharp=blunt; smooth=rough; cheap=expensive; awake=asleep; safe=dangerous;
    simple=complicated;
    easy=difficult; alive=dead; same=different; remember=forget; question=answer; arrive=leave; give=take; before=after;
    north=south; east=west; laugh=cry; smile=frown"""
)
_PLURALS = _pairs(
    """cat=cats; dog=dogs; box=boxes; bus=buses; child=children; man=men; woman=women; mouse=mice; foot=feet; tooth=teeth;
    goose=geese; leaf=leaves; knife=knives; wolf=wolves; baby=babies; city=cities; party=parties; fish=fish;
    sheep=sheep;
    deer=deer; person=people; potato=potatoes; tomato=tomatoes; hero=heroes; piano=pianos; watch=watches; dish=dishes;
    glass=glasses; key=keys; boy=boys; lady=ladies; story=stories; half=halves; shelf=shelves; life=lives; wife=wives;
    loaf=loaves; ox=oxen; house=houses; tree=trees; book=books; fox=foxes; brush=brushes; penny=pennies;
    country=countries;
    church=churches; day=days; photo=photos; cherry=cherries; roof=roofs"""
)
_SOUNDS = _articled(
    _pairs(
        """cat=meow; dog=woof; cow=moo; sheep=baa; pig=oink; duck=quack; horse=neigh; lion=roar; rooster=cock-a-doodle-doo;
    frog=ribbit; bee=buzz; snake=hiss; owl=hoot; mouse=squeak; wolf=howl; crow=caw; donkey=hee-haw; hen=cluck;
    bird=tweet;
    goose=honk; turkey=gobble; bear=growl; goat=maa; chick=cheep; cuckoo=cuckoo"""
    )
)
_LEGS = _articled(
    _pairs(
        """spider=eight; dog=four; cat=four; bird=two; human=two; ant=six; bee=six; horse=four; cow=four; snake=no; fish=no;
    crab=ten; elephant=four; chicken=two; butterfly=six; octopus=no; table=four; lizard=four; frog=four; worm=no"""
    )
)
_SENTENCES = _pairs(
    """Which planet is closest to the sun?=Mercury is closest to the sun.; Which planet is the largest?=Jupiter is the largest planet.;
    Which planet is called the red planet?=Mars is called the red planet.;
    Which planet has bright rings?=Saturn has bright rings.;
    Which planet do we live on?=We live on the planet Earth.; Which planet is the hottest?=Venus is the hottest planet.;
    Which planet is farthest from the sun?=Neptune is farthest from the sun.;
    What is the third planet from the sun?=The third planet from the sun is Earth.;
    Which planet is tipped on its side?=Uranus is tipped on its side.; What is the sun?=The sun is a star.;
    What moves around the Earth?=The moon moves around the Earth.;
    Which is the smallest planet?=Mercury is the smallest planet.;
    What is the biggest ocean?=The Pacific is the biggest ocean.;
    What is the longest river in Africa?=The Nile is the longest river in Africa.;
    What is the highest mountain?=Mount Everest is the highest mountain.;
    What is the largest animal?=The blue whale is the largest animal.;
    What is the fastest land animal?=The cheetah is the fastest land animal.;
    What is the tallest animal?=The giraffe is the tallest animal.;
    What is the largest continent?=Asia is the largest continent.;
    What is the coldest continent?=Antarctica is the coldest continent.;
    What do bees make?=Bees make honey.; What do cows eat?=Cows eat grass.; Where do fish live?=Fish live in water.;
    What do we breathe?=We breathe air.; What is ice made of?=Ice is frozen water.;
    At what temperature does water boil?=Water boils at 100 degrees Celsius.;
    At what temperature does water freeze?=Water freezes at 0 degrees Celsius.;
    Where does the sun rise?=The sun rises in the east.;
    Where does the sun set?=The sun sets in the west.;
    What language do people speak in Brazil?=People speak Portuguese in Brazil.;
    What language do people speak in Austria?=People speak German in Austria.;
    What language do people speak in Mexico?=People speak Spanish in Mexico.;
    Who wrote Hamlet?=William Shakespeare wrote Hamlet.;
    Who painted the Mona Lisa?=Leonardo da Vinci painted the Mona Lisa.;
    What is the chemical formula of water?=The chemical formula of water is H2O.;
    What do plants need to grow?=Plants need light, water and air to grow.;
    Which season comes after winter?=Spring comes after winter.;
    Which season comes after spring?=Summer comes after spring.;
    Which season comes after summer?=Autumn comes after summer.;
    Which season comes after autumn?=Winter comes after autumn.;
    What are the primary colours?=The primary colours are red, yellow and blue.;
    Which animal is the king of the jungle?=The lion is called the king of the jungle.;
    What do you get when you mix blue and yellow?=Blue and yellow make green.;
    What do you get when you mix red and yellow?=Red and yellow make orange.;
    What do you get when you mix red and blue?=Red and blue make purple.;
    What do you get when you mix black and white?=Black and white make grey."""
)  # fmt: skip
_COUNTS = tuple(
    (f"{unit} {whole}", f"There are {count} {unit} {whole}.")
    for unit, whole, count in (
        ("seconds", "in a minute", 60), ("minutes", "in an hour", 60), ("hours", "in a day", 24), ("days",
         "in a week", 7),
        ("months", "in a year", 12), ("weeks", "in a year", 52), ("days", "in a year", 365), ("years",
         "in a century", 100),
        ("years", "in a decade", 10), ("metres", "in a kilometre", 1000), ("centimetres", "in a metre", 100),
        ("millimetres", "in a centimetre", 10), ("grams", "in a kilogram", 1000), ("millilitres", "in a litre", 1000),
        ("eggs", "in a dozen", 12), ("cents", "in a dollar", 100), ("letters", "in the English alphabet", 26),
        ("players", "in a football team", 11), ("days", "in January", 31), ("days", "in April", 30), ("bits",
         "in a byte", 8),
        ("degrees", "in a circle", 360), ("planets", "in the solar system", 8), ("sides", "in a triangle", 3),
        ("sides", "in a square", 4), ("sides", "in a hexagon", 6), ("sides", "in a pentagon", 5), ("faces",
         "on a cube", 6),
    )
)  # fmt: skip
_DEFINITIONS = _pairs(
    """baker=someone who makes bread; pilot=someone who flies planes; teacher=someone who teaches at a school;
    farmer=someone who grows food; tailor=someone who makes clothes; plumber=someone who repairs pipes;
    library=a place where books are kept; hospital=a place where sick people are treated;
    bakery=a shop that sells bread;
    museum=a place that shows art or old things; harbour=a place where ships can stay;
    island=land with water all around it;
    desert=a dry place with little rain; volcano=a mountain that can spit hot lava; river=a long stream of water;
    lake=a large body of water with land around it; forest=a large area full of trees;
    bridge=a way to cross a river or a road;
    umbrella=a thing that keeps off the rain; thermometer=a thing that measures temperature;
    clock=a machine that shows the time;
    compass=a tool that shows where north is; hammer=a tool to hit nails; saw=a tool to cut wood;
    telescope=a tool to look at stars;
    microscope=a tool to look at tiny things; computer=a machine that works with data;
    robot=a machine that can move and work;
    bicycle=a vehicle with two wheels; train=a vehicle that runs on rails; boat=a vehicle that floats on water;
    vowel=one of the letters a, e, i, o and u; noun=a word for a thing or a person; verb=a word for what someone does;
    token=a small piece of text that a model reads; language model=a program that predicts the next piece of text;
    variable=a name for a value in a program; function=a piece of code with a name; loop=code that runs several times;
    string=a piece of text in a program; list=a row of values in a program; bug=a mistake in a program;
    orphan=a child without parents; poem=a text in verses; novel=a long story in a book;
    orchestra=a large group of musicians;
    mammal=an animal that feeds its young with milk; insect=an animal with six legs;
    fruit=a sweet part of a plant with seeds;
    breakfast=the first meal of the day; friend=someone you like and trust; joke=a short text that makes people laugh;
    triangle=a shape with three sides; square=a shape with four equal sides; circle=a perfectly round shape;
    decade=a time of ten years; century=a time of one hundred years; prime number=a number with exactly two divisors;
    map=a picture of a place from above; recipe=a text that tells how to cook something"""
)
_YOUNG = _articled(
    _pairs(
        """dog=puppy; cat=kitten; cow=calf; sheep=lamb; horse=foal; pig=piglet; duck=duckling; goose=gosling; lion=cub; bear=cub;
    frog=tadpole; hen=chick; goat=kid; kangaroo=joey; swan=cygnet; deer=fawn"""
    )
)
_FOLLOWING = tuple((day, DAYS[(i + 1) % 7]) for i, day in enumerate(DAYS)) + tuple(
    (month, MONTHS[(i + 1) % 12]) for i, month in enumerate(MONTHS)
)
_KIND_OF = _pairs(
    """rose=flower; tulip=flower; oak=tree; pine=tree; dog=animal; eagle=bird; sparrow=bird; salmon=fish; shark=fish; apple=fruit;
    banana=fruit; carrot=vegetable; onion=vegetable; piano=instrument; violin=instrument; hammer=tool; saw=tool;
    car=vehicle;
    bus=vehicle; ant=insect; bee=insect; chair=piece of furniture; table=piece of furniture; shirt=piece of clothing;
    python=snake; penguin=bird; whale=mammal; bat=mammal; daisy=flower; birch=tree; flute=instrument; truck=vehicle"""
)

TABLES = (
    Table(_CAPITALS, ("What is the capital of {k}?", "Capital of {k}?", "Which city is the capital of {k}?",
                      "Tell me the capital of {k}.", "Name the capital of {k}.", "Do you know the capital of {k}?"),
          "The capital of {k} is {v}."),
    Table(_CAPITALS, ("Which country has the capital {v}?", "{v} is the capital of which country?",
                      "Of which country is {v} the capital?"), "{v} is the capital of {k}."),
    Table(_CONTINENTS, ("On which continent is {k}?", "Which continent is {k} on?", "Where is {k}?",
    "In which part of the world is {k}?"),
          "{k} is in {v}."),
    Table(_COLOURS, ("What colour is {k}?", "What is the colour of {k}?", "Which colour has {k}?", "What color is {k}?",
                     "Tell me the colour of {k}."), "{K} is {v}."),
    Table(_OPPOSITES + tuple((v, k) for k, v in _OPPOSITES if v not in ("light", "short")),
          ("What is the opposite of {k}?", "Opposite of {k}?", "Name the opposite of {k}.",
           "Which word is the opposite of {k}?",
           "What's the contrary of {k}?", "Tell me the opposite of {k}."), "The opposite of {k} is {v}."),
    Table(_PLURALS, ("What is the plural of {k}?", "Plural of {k}?", "One {k}, two what?",
    "How do you write the plural of {k}?",
                     "Give me the plural of {k}."), "The plural of {k} is {v}."),
    Table(_SOUNDS, ("What sound does {k} make?", "What does {k} say?", "Which sound does {k} make?",
    "How does {k} sound?"),
          "{K} says {v}."),
    Table(_LEGS, ("How many legs does {k} have?", "How many legs has {k}?", "Tell me how many legs {k} has."),
    "{K} has {v} legs."),
    Table(_COUNTS, ("How many {k}?", "How many {k} are there?", "Do you know how many {k} there are?"), "{v}"),
    Table(_SENTENCES, ("{k}", "{k}", "Do you know the answer? {k}", "I wonder: {k}"), "{v}"),
    Table(_articled(_DEFINITIONS), ("What is {k}?", "What does the word mean: {k}?", "Can you explain what {k} is?",
    "Define: {k}",
                                    "Explain in one sentence: what is {k}?", "Tell me what {k} is."), "{K} is {v}."),
    Table(_YOUNG, ("What is the baby of {k} called?", "How do you call a young one of {k}?",
    "What is the young of {k} called?"),
          "The young of {k} is called a {v}."),
    Table(_FOLLOWING, ("What comes after {k}?", "Which one follows {k}?", "What comes next after {k}?",
    "{k} is followed by what?"),
          "{v} comes after {k}."),
    Table(tuple((v, k) for k, v in _FOLLOWING), ("What comes before {k}?", "Which one is before {k}?",
    "What is just before {k}?"),
          "{v} comes before {k}."),
    Table(tuple((a(k), a(v)) for k, v in _KIND_OF),
          ("What kind of thing is {k}?", "Is {k} {v}?", "What is {k}, in general?", "In which group does {k} belong?"),
           "{K} is {v}."),
)  # fmt: skip
_WEIGHTS = tuple(len(table.pairs) for table in TABLES)


@cache
def number_of_facts() -> int:
    """How many different facts the tables hold."""
    return len({table.answer.format(k=k, v=v, K=k) for table in TABLES for k, v in table.pairs})


def knowledge(rng: random.Random) -> Turn:
    """A question about one fact; every fact is trained, some ways to ask for it are held out."""
    table = rng.choices(TABLES, _WEIGHTS)[0]
    k, v = rng.choice(table.pairs)
    question = ask(rng, table.asks, k=k, v=v)
    answer = table.answer.format(k=k, v=v, K=k[0].upper() + k[1:])
    thought = rng.choice(("This is general knowledge.", "I know this one.", "A short fact is asked for."))
    short = "" if table.answer == "{v}" else v
    return Turn(f"knowledge {question}", question, answer, f"{thought} {answer}", short)
