"""Report: tables, figures and a page, made from a run directory and nothing else."""
