"""The wizard's inside, imported by app.py alone.

sessions: what belongs to one visitor, on disk. studio: what can be done with it. cards, charts, look: how it is
shown. settings: the form of every training setting. step_*: layout and handlers of each step. api: named endpoints.
"""
