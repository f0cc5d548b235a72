"""What `dmo doctor` finds, one line each, and how it looks for libraries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import importlib
from importlib import metadata
import importlib.util

OK, WARN, MISSING, BROKEN = 'ok', 'warn', 'missing', 'broken'


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, how it is, and what to do about it."""

    name: str
    state: str
    detail: str
    fix: str = ''


def library(name: str, module: str, fix: str) -> Finding:
    """Import a library and tell its version."""
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        return absent(name, error, fix)
    except Exception as error:
        return Finding(name, BROKEN, f'does not import: {error}', f'reinstall it: {fix}')
    return Finding(name, OK, str(getattr(found, '__version__', 'installed')))


def libraries(name: str, modules: Sequence[str], fix: str) -> Finding:
    """Look for several libraries without importing them."""
    lost = [module for module in modules if importlib.util.find_spec(module) is None]
    if lost:
        return Finding(name, MISSING, f'{", ".join(lost)} not installed', fix)
    return Finding(name, OK, ', '.join(modules))


def absent(name: str, error: ImportError, fix: str) -> Finding:
    """Tell a library that is not there from one whose own parts do not load."""
    if isinstance(error, ModuleNotFoundError):
        return Finding(name, MISSING, f'not installed ({error.name})', fix)
    return Finding(name, BROKEN, f'does not load: {error}', fix)


def version_of(distribution: str) -> str | None:
    """Return the version of an installed distribution."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
