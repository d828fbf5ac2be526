"""Nouns and their arithmetic. Nothing in this room awaits, opens or imports another of our rooms."""
