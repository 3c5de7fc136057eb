"""What packages and classes share: `__all__`, and errors for names and keywords that are not there.

spellings.py has the table behind these errors, and says why they cost what they cost.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from types import FrameType, FunctionType, ModuleType
from typing import Any, ClassVar, TypeVar

Self = TypeVar("Self")


def public_names(namespace: dict[str, Any], *modules: ModuleType) -> list[str]:
    """The names in the namespace of a package, except private ones and modules other than these.

    >>> "Linear" in public_names(vars(mg.nn)), "linear" in public_names(vars(mg.nn))
    (True, False)
    """
    return [
        name
        for name, member in namespace.items()
        if name[0] != "_" and (not isinstance(member, ModuleType) or member in modules)
    ]


def lead_on_from(module: ModuleType) -> None:
    """Give a package and its public modules a `__getattr__`, see `missing`, and an `__all__`, of
    what they define themselves, where they have none.

    >>> hasattr(mg, "cat"), hasattr(mg, "__wrapped__"), dir(mg.nn.init)[:2]
    (False, False, ['calculate_gain', 'constant_'])
    """
    home, namespace = module.__name__, module.__dict__
    if "__all__" not in namespace:
        members = {n: m for n, m in namespace.items() if getattr(m, "__module__", None) == home}
        namespace["__all__"] = public_names(members)
        namespace["__dir__"] = namespace["__all__"].copy
    namespace["__getattr__"] = missing(home)
    for name in namespace["__all__"]:
        if isinstance(member := getattr(module, name), ModuleType):
            lead_on_from(member)


def missing(module: str) -> Callable[[str], Any]:
    """The `__getattr__` of a module: AttributeError, with what to write instead of a name of
    PyTorch's or NumPy's, or the nearest name. Private names are answered at once.

    >>> mg.nn.Liner
    Traceback (most recent call last):
    AttributeError: minigrad.nn has no attribute 'Liner'; did you mean nn.Linear?
    """

    def __getattr__(name: str) -> Any:  # noqa: N807
        message, advice = f"{module} has no attribute {name!r}", ""
        if name[:1] != "_":
            from .spellings import advice as spelled

            advice = spelled(module.partition(".")[2] or "mg", name)
            if advice and _imports_from(sys._getframe(1)):
                raise ImportError(
                    f"cannot import name {name!r} from {module!r}{advice}", name=module
                )
        given = {} if advice else {"obj": sys.modules[module]}
        raise AttributeError(message + advice, name=name, **given)

    return __getattr__


def _imports_from(frame: FrameType) -> bool:
    """Whether a frame is at `from ... import name`, which drops the text of an AttributeError."""
    import opcode

    return frame.f_code.co_code[frame.f_lasti] == opcode.opmap["IMPORT_FROM"]


class Signpost:
    """The last finder of `sys.meta_path`: the error for a module that is not here says where its
    contents are.

    >>> import minigrad.utils.data
    Traceback (most recent call last):
    ModuleNotFoundError: No module named 'minigrad.utils'; here it is mg.data.DataLoader for \
torch.utils.data.DataLoader (checkpoint is mg.autograd.checkpoint; there is no TensorBoard writer)
    """

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        """Raise ModuleNotFoundError for a module of minigrad of which there is something to say."""
        package, _, last = name.rpartition(".")
        if package.partition(".")[0] == __package__:
            from .spellings import advice

            if said := advice(package.partition(".")[2] or "mg", last):
                raise ModuleNotFoundError(f"No module named {name!r}{said}", name=name)


def led(namespace: dict[str, Any], names: list[str]) -> None:
    """Wrap the functions of Python among these names of a module, so that the TypeError of a wrong
    call says what to write instead.

    >>> try:
    ...     mg.argmax(mg.ones(2), dim=0)
    ... except TypeError as error:
    ...     print(str(error).partition("; ")[2])
    dim is called axis here: argmax(..., axis=...)
    """
    for name in names:
        if isinstance(namespace[name], FunctionType):
            namespace[name] = _led(namespace[name])


def _led(function: FunctionType) -> Callable[..., Any]:
    @wraps(function)
    def led(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except TypeError as error:
            place = error.__traceback__
            if place is not None and place.tb_next is None:  # raised by the call itself
                from .spellings import lead_on

                lead_on(error, function)
            raise

    return led


class SignatureOfInit:
    """The signature of a class is that of `__init__` (Python 3.11.2 takes that of `__new__`).

    >>> import inspect
    >>> str(inspect.signature(mg.nn.ReLU6))
    "(inplace: 'bool' = False) -> None"
    """

    def __get__(self, instance: object, owner: type[Any]) -> Any:
        import inspect

        if instance is not None:
            raise AttributeError("__signature__")
        signature = inspect.signature(owner.__init__)
        return signature.replace(parameters=[*signature.parameters.values()][1:])


class Constructed:
    """A base class whose constructors name the nearest keyword when they get one they do not have.

    >>> mg.nn.Linear(2, 3, biass=False)
    Traceback (most recent call last):
    TypeError: Linear.__init__() got an unexpected keyword argument 'biass'; did you mean bias?
    """

    __slots__ = ()

    __signature__: ClassVar[Any] = SignatureOfInit()

    def __new__(cls: type[Self], *arguments: Any, **options: Any) -> Self:
        """An instance, if `__init__` has the keywords."""
        if options:
            check_keywords(cls, options)
        self: Self = super().__new__(cls)  # type: ignore[misc]
        return self


def check_keywords(kind: type, options: dict[str, Any]) -> None:
    """Raise TypeError for a keyword that `__init__` of a class does not have.

    >>> mg.namespace.check_keywords(mg.nn.Linear, {"bias": True})
    """
    initialiser: Any = getattr(kind, "__init__")  # noqa: B009 (mypy warns of the other)
    code = getattr(initialiser, "__code__", None)
    if code is None or code.co_flags & 8:  # compiled, or it takes **options
        return
    known = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
    for name in options:
        if name not in known:
            from .spellings import keyword_advice

            raise TypeError(
                f"{kind.__name__}.__init__() got an unexpected keyword argument {name!r}"
                + keyword_advice(kind.__name__, name, known)
            )


def note_place(error: Exception, module: Any) -> None:
    """Note in an exception that passes `module.__call__` in which module below it was raised.

    >>> net = mg.nn.Sequential(mg.nn.Linear(2, 3), mg.nn.Linear(2, 3))
    >>> try:
    ...     net(mg.ones(4, 2))
    ... except ValueError as error:
    ...     print(getattr(error, "__notes__", ["in layer 1 (Linear)"])[0])  # new in Python 3.11
    in layer 1 (Linear)
    """
    place = error.__traceback__
    if place is None or not hasattr(error, "add_note"):
        return
    innermost, call = module, place.tb_frame.f_code
    while place is not None:
        if place.tb_frame.f_code is call:
            innermost = place.tb_frame.f_locals["self"]
        place = place.tb_next
    kind = type(innermost).__name__
    path = next((path for path, child in module.named_modules() if child is innermost), "")
    text = f"in layer {path} ({kind})" if path else f"in {kind}"
    notes: list[str] = getattr(error, "__notes__", [])
    for at, note in enumerate(notes):  # of a module on the way
        if note == f"in {kind}" or (note.startswith("in layer ") and note.endswith(f"({kind})")):
            notes[at] = text if path else note
            return
    error.add_note(text)


def hidden_package() -> str:
    """Where the sources are, and the installed package that they hide, if they are first in the
    path: what the error says when their core is not compiled.

    >>> mg.namespace.hidden_package().startswith(" in /")
    True
    """
    from importlib.machinery import PathFinder

    here = Path(__file__).resolve().parents[1]
    found = PathFinder.find_spec("minigrad", [p for p in sys.path if Path(p).resolve() != here])
    there = f", which hides {found.origin}: run Python in another folder" if found else ""
    return f" in {here}{there}"


def unpacked(parts: list[Any], names: int) -> Iterator[Any]:
    """Iterate over more parts than there are names to unpack them into.

    >>> try:
    ...     values, indices = mg.ones(2, 3).max(axis=0)
    ... except ValueError as error:
    ...     print(str(error).partition("; ")[2])
    max, min and sort return one Tensor here: values, indices = x.max(axis=1), x.argmax(axis=1)
    """
    yield from parts[:names]
    raise ValueError(
        f"too many values to unpack (expected {names}); max, min and sort return one Tensor here: "
        "values, indices = x.max(axis=1), x.argmax(axis=1)"
    )
