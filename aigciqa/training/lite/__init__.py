"""The recipe of the embedded metrics, and what they are checked on."""
