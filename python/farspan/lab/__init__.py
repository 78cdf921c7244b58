"""The laboratory: how far models read beyond the length that they were trained on, and what takes them further.

    measure         loss against length under position schemes, by the `windows` of a text; `measurement` is what comes
                    out, with `notes`, and `report` its files
    retrieval       needles (`needle`) and copies (`copying`) beside a measurement
    attention       what heads look at as texts grow
    extrapolation   models trained from scratch on `tasks`: train short, test long; by name in `recipes`
    language        the same on a text; by name in `language_recipes`
    extension       methods that take a checkpoint to longer texts
    train           a short training loop for any module

Beside them: `schemes` by name, `custom` ones, and `reach`, what a config says of its trained length and schemes;
`settings`, `runs` (the folder) and `trainings` (how many), which both kinds of extrapolation share; `kept` results, and
the `pieces` of a measurement that goes on after a stop; `subject`, a command's model and text; `progress`, `tables`,
`curves` and `machine` for what is shown; `lens_report`, the files of `farspan lens`; `embedded`, the script of the
embedded model, and `eager`, the model that the demo compares it with.
"""
