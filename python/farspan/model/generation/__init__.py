"""From prompts to completions: steps, drafts, captured passes, and what may be drawn."""
