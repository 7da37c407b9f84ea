"""Where model folders saved by earlier versions look for their classes."""

from ebt.problems import __getattr__ as __getattr__
