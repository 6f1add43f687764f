"""Behaviours of the synthetic five-column transactions: eight legitimate, six fraudulent."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pattern:
    """The distributions of one behaviour.

    share: of the legitimate (or fraudulent) rows.
    amount: typical amount in euros (the median, before the tail); amount_spread: standard deviation of its logarithm.
    hour, hour_spread: centre and standard deviation in hours, wrapped round midnight.
    distance, distance_spread: as for amount, in km from home.
    device, device_spread: median device score and standard deviation of its log-odds.
    mismatch: probability that the card's and the transaction's countries differ.
    amount_link, distance_link, device_link: correlation by a hidden factor: what one standard deviation of it adds to
        log amount, log distance and the device log-odds.
    round_to: amounts are multiples of this many euros; 0 = any cent.
    """

    share: float
    amount: float
    amount_spread: float
    hour: float
    hour_spread: float
    distance: float
    distance_spread: float
    device: float
    device_spread: float
    mismatch: float
    amount_link: float = 0.0
    distance_link: float = 0.0
    device_link: float = 0.0
    round_to: float = 0.0


LEGITIMATE: dict[str, Pattern] = {
    "local, midday": Pattern(0.275, 18, 0.70, 12.0, 2.4, 2.5, 0.9, 0.06, 0.8, 0.002, 0.15, 0.3),
    "local, evening": Pattern(0.24, 26, 0.75, 18.0, 2.0, 4.0, 0.9, 0.07, 0.8, 0.003, 0.15, 0.3),
    "online, evening": Pattern(0.16, 42, 0.85, 20.5, 2.6, 9.0, 1.1, 0.13, 0.8, 0.03, 0.2, 0.2, 0.2),
    "night shopper": Pattern(0.07, 34, 0.90, 1.5, 2.6, 8.0, 1.1, 0.16, 0.9, 0.02, 0.1, 0.2, 0.2),
    "traveller": Pattern(0.05, 70, 0.85, 14.5, 4.5, 900, 1.1, 0.06, 0.9, 0.85, 0.3, 0.5),
    "business": Pattern(0.065, 180, 0.90, 11.5, 3.0, 40, 1.3, 0.05, 0.8, 0.06, 0.3, 0.6),
    "cash machine": Pattern(0.08, 70, 0.60, 13.5, 4.0, 2.0, 0.9, 0.04, 0.7, 0.01, 0.0, 0.2, 0.0, 10),
    "old or private device": Pattern(0.06, 28, 0.85, 18.5, 4.5, 7.0, 1.4, 0.50, 0.9, 0.10, 0.1, 0.2, 0.2),
}
FRAUDULENT: dict[str, Pattern] = {
    "card testing": Pattern(0.22, 1.6, 0.50, 3.0, 1.8, 60, 1.5, 0.82, 0.8, 0.25, 0.0, 0.4, 0.3),
    "account takeover": Pattern(0.22, 380, 0.60, 21.0, 4.5, 350, 1.3, 0.60, 0.9, 0.65, 0.3, -0.4, 0.3),
    "night spending spree": Pattern(0.18, 190, 0.55, 2.5, 1.6, 14, 0.9, 0.85, 0.7, 0.60, 0.2, 0.0, 0.3),
    "impossible travel": Pattern(0.10, 80, 0.70, 13.0, 6.0, 5500, 0.4, 0.22, 0.8, 0.90, 0.2, 0.2),
    "merchant cash-out": Pattern(0.16, 260, 0.30, 11.0, 2.5, 0.5, 0.5, 0.32, 0.6, 0.03, 0.3, -0.4, 0.4, 50),
    "friendly fraud": Pattern(0.12, 85, 0.70, 21.0, 3.0, 6.0, 1.0, 0.17, 0.8, 0.03, 0.2, 0.2, 0.2),
}
