"""Which domain of a cohort, in which state, plays which role of a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ganatomy.cohorts.cohort import Cohort
from ganatomy.contracts import InputError
from ganatomy.core.plugins import nearest
from ganatomy.experiment import Experiment
from ganatomy.measures.statistics import counted


def cast_roles(
    base: Experiment, cohort: Cohort, given: Sequence[str] = (), source: str = "", target: str = ""
) -> Experiment:
    """``base`` with a domain of ``cohort`` for each of its roles.

    given: ``ROLE=DOMAIN`` or ``ROLE=DOMAIN:STATE``, for as many roles as are told.  source, target: domains of roles A
    and B.  Of what is not told: A and B are chosen as ``choose_domains`` does; a role of which the base knows the state
    only (``:lesion``) is played by ``target``, or by the one domain there is; any other by the domain of its name, and
    the base's target, where there is none of its name, by ``target`` or the one domain as well.
    InputError where that leaves a role open.
    """
    told = dict(_pair(text, base, cohort) for text in given)
    if set(base.domains) == {"A", "B"} and not told:
        chosen = dict(zip("AB", choose_domains(cohort, source, target), strict=True))
    else:
        chosen = {role: told.get(role) or _domain_for(role, base, cohort, target) for role in base.domains}
    return replace(base, cohort=cohort.name, domains=chosen)


def with_roles(base: Experiment, fixed: Mapping[str, Any]) -> Experiment:
    """``base`` with the roles that its method has under the settings ``fixed``, where these say which: the last is the
    target where that of before is none of them."""
    settings = {name: value for name, value in fixed.items() if name.startswith("method.")}
    try:
        roles = base.with_values(settings).method_class().roles
    except InputError:  # of a setting of another method, perhaps: said where it is known which
        return base
    if roles == base.method_class().roles:
        return base
    domains = {role: base.domains.get(role, "") for role in roles}
    return replace(base, domains=domains, target=base.target if base.target in roles else roles[-1])


def _pair(text: str, base: Experiment, cohort: Cohort) -> tuple[str, str]:
    role, equals, domain = text.partition("=")
    if not equals or role not in base.domains:
        raise InputError(f"--domains {text}", expected=f"ROLE=DOMAIN, the roles being {', '.join(base.domains)}")
    if domain.partition(":")[0] not in cohort.domains:
        raise InputError(f"--domains {text}: cohort {cohort.name} has no such domain",
                         expected=nearest(domain.partition(":")[0], cohort.shown))  # fmt: skip
    if domain.partition(":")[0] not in cohort.shown:
        raise InputError(f"--domains {text}: that is the truth, for measures alone", expected=", ".join(cohort.shown))
    return role, domain


def _domain_for(role: str, base: Experiment, cohort: Cohort, target: str) -> str:
    state, known = base.state(role), list(cohort.shown)
    if target and target not in known:
        raise InputError(f"--target {target}: cohort {cohort.name} has no such domain", expected=nearest(target, known))
    if state:
        only = target or (known[0] if len(known) == 1 else "")
        if not only:
            raise InputError(f"cohort {cohort.name} has domains {', '.join(known)}", expected="--target DOMAIN")
        return f"{only}:{state}"
    named = [name for name in known if name.lower() == role.lower()]
    if not named and role == base.target and (target or len(known) == 1):
        return target or known[0]
    if not named:
        raise InputError(
            f"cohort {cohort.name} has no domain for role {role} of {base.method.name}",
            expected=f"a domain of that name; it has {', '.join(known)}",
            remedy=f"--domains {role}=DOMAIN" + (" or --target DOMAIN" if role == base.target else ""),
        )
    return named[0]


def choose_domains(cohort: Cohort, source: str, target: str) -> tuple[str, str]:
    """(source, target) domain: what was asked for, else of two domains the one with fewer labelled training patients
    is the target; with as many in both the one that the cohort lists last.
    InputError when the cohort has no two domains to choose from."""
    known = list(cohort.shown)
    for option, name in (("--source", source), ("--target", target)):
        if name and name not in known:
            raise InputError(f"{option} {name}: cohort {cohort.name} has no such domain", expected=nearest(name, known))
    if len(known) < 2:
        raise InputError(
            f"cohort {cohort.name} has one domain ({', '.join(known)})",
            expected="two domains, to translate from one to the other",
            remedy="import images of a second modality or state as another domain",
        )
    if not (source and target) and len(known) > 2:
        raise InputError(f"cohort {cohort.name} has domains {', '.join(known)}", expected="--source and --target")
    labelled = _labelled(cohort)
    if not (source or target) and len(set(labelled.values())) == 1:
        source, target = known
    target = target or min((name for name in known if name != source), key=lambda name: labelled[name])
    source = source or next(name for name in known if name != target)
    if source == target:
        raise InputError(f"--source and --target are both {source}", expected="two domains")
    return source, target


def tie_of(base: Experiment, cohort: Cohort) -> str:
    """What to tell whoever named neither source nor target of ``base``, where the order of the cohort decided which is
    which; "" where their labelled patients did."""
    labelled = _labelled(cohort)
    if set(base.domains) != {"A", "B"} or len(labelled) != 2 or len(set(labelled.values())) != 1:
        return ""
    source, target = base.domain("A"), base.domain("B")
    return (
        f"{counted(labelled[target], 'labelled training patient')} in {source} and in {target} alike: the order of "
        f"the cohort makes {source} the source and {target} the target (--target {source} for the other way)"
    )


def _labelled(cohort: Cohort) -> dict[str, int]:
    """Labelled training patients of each domain."""
    return {name: len({row.patient for row in cohort.rows_of(name, "train") if row.label}) for name in cohort.shown}
