"""The wizard's inside, imported by app.py alone.

Of one visitor, on disk: stored_session, sessions. What a visitor can do: session_photos, session_masks, session_runs,
session_portraits, portrait_sheets; what takes long, as jobs (jobs, session_jobs): training_jobs, portrait_jobs,
comparison_jobs, finishing_jobs; drafting, ready_looks. All of it in one place: studio. How it is shown: cards,
look_cards, charts, training_view, look, settings, setting_texts. The page: step_* has layout and handlers of each
step, page puts them together, events connects them. For programs: api.
"""
