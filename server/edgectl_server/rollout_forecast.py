"""What a rollout would do: the facts of a forecast, read from what is stored; changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from statistics import median, quantiles

from sqlalchemy import select
from sqlalchemy.orm import Session

from edgectl_server.delta_rows import running_in, savings_to
from edgectl_server.domain.forecast import Expected, Pace, forecast
from edgectl_server.domain.rollouts import DeviceState, ObservedDevice
from edgectl_server.domain.variants import ClassFigures, VariantFacts
from edgectl_server.order_answers import reported_of
from edgectl_server.ordering import Ordering, variants_of
from edgectl_server.rollout_phases import planner_policy
from edgectl_server.rollout_places import check_places, read_places, settle_phases
from edgectl_server.rollout_selection import find_overlaps, find_ready_version, select_devices
from edgectl_server.rollout_sites import read_sites, site_of
from edgectl_server.schemas import (
    OverlapInfo,
    PaceInfo,
    PhaseForecastInfo,
    RolloutForecast,
    RolloutPolicy,
    RolloutRequest,
    SiteForecastInfo,
)
from edgectl_server.storage.tables import (
    BundleVariant,
    Device,
    ModelVersion,
    Rollout,
    RolloutEvent,
)

__all__ = ["forecast_rollout"]

NAMES_MAX = 100
"""Devices that are named of those that cannot take part."""
_EVENTS_MAX = 4000
_SAMPLES_MIN = 2
_SLOW = 19
_AT_ONCE = 500


def forecast_rollout(
    session: Session, ordering: Ordering, asked: RolloutRequest
) -> RolloutForecast:
    """Return what a rollout would do if it were started now; errors as when it is started.

    Other rollouts that have its devices are no error here: they are named.
    """
    version = find_ready_version(session, asked.model, asked.version)
    names = select_devices(session, asked.selector)
    asked_policy = settle_phases(session, asked.policy)
    places = read_places(session, asked_policy.phases, names)
    check_places(asked_policy.phases, places.values())
    expected, whole = _expect(session, ordering, version, places)
    policy = planner_policy(asked_policy)
    sites = read_sites(session)
    pace = _pace(session, asked.model)
    found = forecast(
        policy,
        expected,
        {one.observed.site: sites[one.observed.site] for one in expected},
        pace=pace,
        each_s=asked.policy.shadow_s + asked.policy.observe_s,
    )
    fetches = sum(one.fetches for one in found.phases)
    return RolloutForecast(
        model=asked.model,
        version=asked.version,
        devices=len(names),
        offline_devices=sum(1 for one in expected if not one.observed.online),
        fetches_bytes=fetches,
        whole_bytes=whole,
        phases=[
            PhaseForecastInfo(
                **{name: value for name, value in asdict(one).items() if name != "fetches"},
                fetches_bytes=one.fetches,
            )
            for one in found.phases
        ],
        sites=[SiteForecastInfo(**asdict(one)) for one in found.sites],
        pace=PaceInfo(**asdict(pace)),
        unfit=list(found.unfit[:NAMES_MAX]),
        unfit_devices=len(found.unfit),
        unknown=list(found.unknown[:NAMES_MAX]),
        unknown_devices=len(found.unknown),
        overlaps=[
            OverlapInfo(rollout=rollout, devices=count)
            for rollout, count in find_overlaps(session, asked.model, names)
        ],
    )


def _expect(
    session: Session, ordering: Ordering, version: ModelVersion, places: Mapping[str, int]
) -> tuple[list[Expected], int]:
    """Return what each device would do, and the bytes of the whole bundles that they would run."""
    variants = variants_of(session, version.id)
    rows = session.scalars(select(BundleVariant).where(BundleVariant.version_id == version.id))
    sizes = {row.manifest: row.bundle_bytes for row in rows}
    savings, whole = savings_to(session, version.id), 0
    known: dict[str, dict[str, ClassFigures]] = {}
    found = []
    for device in _devices(session, list(places)):
        reported = reported_of(device)
        candidates = ordering.candidates(session, device, reported, variants, known=known)
        observed = ObservedDevice(
            device=device.id,
            state=DeviceState.PENDING,
            online=device.online,
            candidates=None if candidates is None else tuple(one.manifest for one in candidates),
            site=site_of(device),
            from_phase=places[device.id],
        )
        if not candidates:
            found.append(Expected(observed))
            continue
        first = candidates[0]
        whole += sizes[first.manifest]
        running = running_in(reported, version.model)
        found.append(
            Expected(
                observed,
                variant=first.variant,
                fetches=_fetches(first, running, sizes, savings),
                load_ms=_load_ms(device.device_class, first, known),
            )
        )
    return found, whole


def _fetches(
    variant: VariantFacts,
    running: str | None,
    sizes: Mapping[str, int],
    savings: Mapping[tuple[str, str], int],
) -> int:
    """Return what a device would fetch that runs `running`: a delta where there is one by now."""
    if running is None:
        return sizes[variant.manifest]
    if running == variant.manifest:
        return 0
    return max(0, sizes[variant.manifest] - savings.get((running, variant.manifest), 0))


def _load_ms(
    device_class: str, variant: VariantFacts, known: Mapping[str, Mapping[str, ClassFigures]]
) -> float | None:
    """Return how long loading has taken on devices of the class; None: nobody has measured it."""
    figures = known.get(device_class, {}).get(variant.manifest)
    return None if figures is None else figures.load_ms


def _devices(session: Session, names: Sequence[str]) -> Iterable[Device]:
    for at in range(0, len(names), _AT_ONCE):
        some = names[at : at + _AT_ONCE]
        yield from session.scalars(
            select(Device).where(Device.id.in_(some)).order_by(Device.id)
        ).all()


def _pace(session: Session, model: str) -> Pace:
    """Read from order to commitment, without what the policy itself has asked for."""
    rows = session.execute(
        select(RolloutEvent, Rollout.policy)
        .join(Rollout, Rollout.id == RolloutEvent.rollout)
        .where(
            Rollout.model == model, RolloutEvent.kind.in_(["device_ordered", "device_committed"])
        )
        .order_by(RolloutEvent.at.desc())
        .limit(_EVENTS_MAX)
    ).all()
    ended: dict[tuple[str, str], datetime] = {}
    took = []
    for event, policy in rows:  # newest first: the commitment comes before its order
        key = (event.rollout, str(event.data.get("device")))
        if event.kind == "device_committed":
            ended[key] = event.at
        elif key in ended:
            asked = RolloutPolicy.model_validate(policy)
            seconds = (ended.pop(key) - event.at).total_seconds()
            took.append(max(0.0, seconds - asked.shadow_s - asked.observe_s))
    if len(took) < _SAMPLES_MIN:
        return Pace(samples=len(took))
    return Pace(len(took), round(median(took), 1), round(quantiles(took, n=20)[_SLOW - 1], 1))
