"""Invented people and how they write what is theirs, for the synthetic corpus of private data.

Values are Faker's; the ways of writing them are ours and chosen so that a detector meets the ones it knows and the ones
it does not: cards in groups of four, numbers without an area code, "name [at] example.com".
"""

import importlib.metadata
import random
import re
from datetime import date, timedelta
from typing import Any

from apo.errors import DataError

AREAS = (201, 206, 212, 214, 215, 303, 305, 312, 404, 415, 503, 510, 512, 602, 609, 617, 702, 713, 801, 818, 919)
FIRST_BIRTH, LAST_BIRTH = date(1936, 1, 1), date(2003, 12, 31)
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
          "December")
KEY_LETTERS = "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"


def faker_version() -> str:
    """Raises DataError where Faker is not installed."""
    try:
        return importlib.metadata.version("Faker")
    except importlib.metadata.PackageNotFoundError:
        raise DataError("data.source=synthetic_pii needs Faker, which is not installed: pip install Faker") from None


class People:
    """By number; the same whenever and in whatever order they are asked for."""

    def __init__(self, seed: int):
        faker_version()
        from faker import Faker
        self.seed, self._faker, self._known = seed, Faker("en_US"), {}

    def person(self, number: int) -> dict[str, str]:
        """Type of value -> as this person writes it."""
        if number not in self._known:
            self._faker.seed_instance(f"{self.seed}/person/{number}")
            self._known[number] = made_up(self._faker)
        return self._known[number]


def made_up(fake: Any) -> dict[str, str]:
    rng = fake.random
    first, last = fake.first_name(), fake.last_name()
    user = user_name(rng, first, last)
    domain = fake.free_email_domain() if rng.random() < 0.6 else fake.domain_name()
    return {
        "name": f"{first} {last}",
        "email": email(rng, user, domain),
        "phone": phone(rng),
        "address": address(rng, fake),
        "date_of_birth": birthday(rng),
        "social_security_number": social_security_number(rng, fake.ssn()),
        "credit_card": credit_card(rng, fake.credit_card_number(rng.choice(["visa16", "mastercard", "discover"]))),
        "url": url(rng, user, fake.domain_name(), fake.word()),
        "twitter": "@" + re.sub(r"\W", "_", user),
        "skype": rng.choice(["live:", "", ""]) + re.sub(r"\W", ".", user),
        "credential": credential(rng, user, fake.password(length=rng.randrange(8, 13))),
        "ip_address": fake.ipv4_public() if rng.random() < 0.8 else fake.ipv6(),
        "api_key": rng.choice(["sk_live_", "ghp_", "AKIA", ""]) + "".join(rng.choices(KEY_LETTERS, k=32)),
    }


def weighted(rng: random.Random, ways: dict[str, int]) -> str:
    """One of the ways of writing something, by how common each is."""
    return rng.choices(list(ways), list(ways.values()))[0]


def user_name(rng: random.Random, first: str, last: str) -> str:
    first, last = (re.sub(r"\W", "", name).lower() for name in (first, last))
    name = rng.choice([f"{first}.{last}", f"{first}_{last}", f"{first[0]}{last}", f"{first}{last[0]}",
                       f"{last}{first[:2]}"])
    return name + (str(rng.randrange(1, 1000)) if rng.random() < 0.7 else "")


def email(rng: random.Random, user: str, domain: str) -> str:
    return weighted(rng, {f"{user}@{domain}": 80, f"{user} at {domain}": 8, f"{user} [at] {domain}": 6,
                          f"{user}(at){domain.replace('.', '(dot)')}": 6})


def phone(rng: random.Random) -> str:
    area, exchange, line = rng.choice(AREAS), rng.randrange(220, 990), rng.randrange(10_000)
    local = f"{exchange}-{line:04d}"
    return weighted(rng, {f"({area}) {local}": 30, f"{area}-{local}": 25, f"+1 {area} {exchange} {line:04d}": 15,
                          f"{area}.{exchange}.{line:04d}": 10, f"{area}{exchange}{line:04d}": 8, local: 8,
                          f"{area} / {local.replace('-', ' ')}": 4})


def address(rng: random.Random, fake: Any) -> str:
    street, city = fake.street_address(), fake.city()
    region = f"{fake.state_abbr(include_territories=False)} {fake.postcode()}"
    return weighted(rng, {f"{street}, {city}, {region}": 50, f"{street}\n{city}, {region}": 25,
                          f"{street} in {city}": 15, f"{city}, {street}": 10})


def birthday(rng: random.Random) -> str:
    day = FIRST_BIRTH + timedelta(rng.randrange((LAST_BIRTH - FIRST_BIRTH).days))
    month = MONTHS[day.month - 1]
    return weighted(rng, {f"{month} {day.day}, {day.year}": 30, f"{day.month:02d}/{day.day:02d}/{day.year}": 25,
                          day.isoformat(): 20, f"{day.day} {month[:3]} {day.year}": 15,
                          f"{day.month}/{day.day}/{day.year % 100:02d}": 10})


def social_security_number(rng: random.Random, number: str) -> str:
    return weighted(rng, {number: 65, number.replace("-", " "): 10, number.replace("-", ""): 25})


def credit_card(rng: random.Random, number: str) -> str:
    groups = [number[i:i + 4] for i in range(0, len(number), 4)]
    return weighted(rng, {number: 55, " ".join(groups): 25, "-".join(groups): 20})


def url(rng: random.Random, user: str, domain: str, word: str) -> str:
    return weighted(rng, {f"https://www.{domain}/{user}": 35, f"http://{domain}/~{user}": 20,
                          f"www.{domain}/{word}/{user}": 20, f"{domain}/{user}": 25})


def credential(rng: random.Random, user: str, password: str) -> str:
    return weighted(rng, {f"username: {user} password: {password}": 40, f"login {user} pw {password}": 20,
                          f"user {user} / pass {password}": 25, f"{user}:{password}": 15})
