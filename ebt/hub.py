"""Classes for model folders saved by earlier versions, which import them from here."""

from ebt.problems import __getattr__ as __getattr__
