"""The laboratory: studies, scaling, the demo's report. It imports all and is imported by nobody."""
