"""Profiles: whole sets of values for params.yaml."""

from pathlib import Path

from pistole.errors import UserError
from pistole.params.explaining import nearest
from pistole.params.reading import load_params
from pistole.params.schema import Params


def list_profiles(folder: str | Path) -> list[tuple[str, str]]:
    """List the profiles.

    Args:
        folder: the folder of profiles.

    Returns:
        Pairs of name and first comment line (empty if there is none), by name.

    Raises:
        UserError: the folder does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: run in the project's folder")
    return [(path.stem, _first_comment(path)) for path in sorted(folder.glob("*.yaml"))]


def use_profile(name: str, profiles_dir: str | Path, target: str | Path) -> Params:
    """Check a profile and copy it, comments and all, to params.yaml.

    Args:
        name: name of the profile.
        profiles_dir: the folder of profiles.
        target: the file to write, whole or not at all.

    Returns:
        The parameters now in ``target``.

    Raises:
        UserError: there is no such profile, or it is not valid.
    """
    from pistole.files import atomic_file  # imports torch: too slow for those who only read

    source, params = find_profile(name, profiles_dir)
    with atomic_file(target) as temporary:
        temporary.write_bytes(source.read_bytes())
    return params


def find_profile(name: str, profiles_dir: str | Path) -> tuple[Path, Params]:
    """Check a profile.

    Args:
        name: name of the profile.
        profiles_dir: the folder of profiles.

    Returns:
        Its file, and its values.

    Raises:
        UserError: there is no such profile, or it is not valid.
    """
    names = [known for known, _ in list_profiles(profiles_dir)]
    if name not in names:
        listed = f"did you mean {nearest(name, names)}? (there are: {', '.join(names)})"
        hint = listed if names else "there are none, give another folder"
        raise UserError(f"{name} is no profile of {profiles_dir}: {hint}")
    source = Path(profiles_dir) / f"{name}.yaml"
    params = load_params(source)
    if params.profile != name:
        told = f"profile: {params.profile!r} is not the file's name"
        raise UserError(f"{source}: {told}: write {name}")
    return source, params


def _first_comment(path: Path) -> str:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            return line.lstrip("# ").rstrip()
    return ""
