"""The files under conf/: all of them load, and a wrong one is refused with file, field, value and rule."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tspace_core.config import (
    MapFormula,
    RDPGHyperparameters,
    driver_ids,
    formula_map,
    load_driver,
    load_hyperparameters,
    load_site,
    load_vehicle,
    read_vehicle,
    settings,
    vehicle_ids,
)
from tspace_core.config.base import parse
from tspace_core.errors import ConfigError, UnknownNameError

SHIPPED = {"twin_truck", "twin_mule", "twin_remote", "leaf_gen1", "leaf_eplus62", "ioniq28", "bmw_i3"}


def test_the_promised_vehicles_are_there() -> None:
    assert set(vehicle_ids()) >= SHIPPED


@pytest.mark.parametrize("vehicle_id", sorted(SHIPPED))
def test_a_vehicle_is_whole(vehicle_id: str) -> None:
    vehicle = load_vehicle(vehicle_id)
    default = vehicle.default_map()
    assert default.table.shape == (len(vehicle.torque_map.speed_axis_kmh), 17)
    assert np.all(np.diff(default.table, axis=1) >= 0), "torque must not fall along the pedal"
    assert np.all(default.table[default.speed_axis_kmh < 7, 0] >= 0), "no braking at pedal 0 below 7 km/h"
    load_site(vehicle.site)
    load_driver(vehicle.driver)
    if vehicle.torque_map.formula:
        made = formula_map(
            vehicle.torque_map.formula, vehicle.torque_map.pedal_axis, vehicle.torque_map.speed_axis_kmh
        )
        assert made == default, "the default map is not what its formula gives"


@pytest.mark.parametrize(("vehicle_id", "rows"), [("twin_truck", 14), ("twin_mule", 21)])
def test_twins_stay_within_their_torque(vehicle_id: str, rows: int) -> None:
    default = load_vehicle(vehicle_id).default_map()
    assert default.table.shape == (rows, 17)
    assert np.abs(default.table).max() <= 4500
    assert default.table[:, 0].min() < 0, "pedal 0 brakes"


def test_a_substitute_is_stated() -> None:
    assert "torque request" in load_vehicle("leaf_gen1").substitutes["thrust"].lower()


def test_only_fields_to_correct_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"1 wrong field\(s\)\n  context: .* equal to 1 .value seen: 0.$"):
        parse(RDPGHyperparameters, {"context": 0}, tmp_path / "rdpg.yaml")


def test_drivers_and_hyperparameters_load() -> None:
    assert {"tracker", "habitual", "aggressive", "unknown"} <= set(driver_ids())
    assert {load_driver(name).id for name in driver_ids()} == set(driver_ids())
    field = load_hyperparameters("ddpg")
    assert (field.gamma, field.tau, field.actor_learning_rate, field.critic_learning_rate) == (
        0.99,
        0.005,
        1e-3,
        2e-3,
    )
    assert (field.noise.theta, field.noise.sigma, field.noise.dt, field.batch_size) == (0.15, 0.2, 1e-2, 256)


def test_a_new_vehicle_is_one_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = settings().conf_dir
    content = yaml.safe_load((conf / "vehicles" / "twin_truck.yaml").read_text())
    content["id"] = "my_truck"
    (tmp_path / "vehicles").mkdir()
    (tmp_path / "maps").symlink_to(conf / "maps")
    (tmp_path / "vehicles" / "my_truck.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setenv("TSPACE_CONF_DIR", str(tmp_path))
    settings.cache_clear()
    try:
        assert (
            load_vehicle("my_truck").default_map()
            == read_vehicle(conf / "vehicles" / "twin_truck.yaml").default_map()
        )
    finally:
        monkeypatch.undo()
        settings.cache_clear()


def _change(content: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        content = content.setdefault(parent, {})
    if value is None:
        del content[last]
    else:
        content[last] = value


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        (
            "torque_map.budget_nm",
            -5,
            r"torque_map\.budget_nm: Input should be greater than 0 \(value seen: -5\)",
        ),
        ("vin", None, "vin: is missing"),
        ("colour", "red", "colour: no such field; fields at the top level are: actions"),
        ("signals.velocity.sign", 2, r"signals\.velocity\.sign"),
        ("signals.velocity", None, r"signals \['velocity'\] are needed"),
        ("torque_map.speed_axis_kmh", [0, 10, 5, 20], "must be ascending"),
        ("type", "boat", "type: Input should be"),
        ("id", "other_name", "the file's name says 'broken'"),
        ("signals.velocity.valid", [10, 0], "must be .lower, upper."),
        ("signals.velocity.valid", [float("nan"), 0], r"valid\.0: Input should be a finite number"),
        ("signals.velocity.scale", float("nan"), r"velocity\.scale: .*finite .*value seen: nan"),
        ("signals.velocity.max_age_s", float("inf"), r"velocity\.max_age_s: .*finite"),
        ("log.gap_s", float("inf"), r"log\.gap_s: .*finite"),
        ("sampling.signals", [], r"sampling\.signals: .*at least 1"),
        ("sampling.signals", ["velocity", "velocity"], "must name each signal once"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, field: str, value: Any, words: str) -> None:
    content = yaml.safe_load((settings().conf_dir / "vehicles" / "twin_truck.yaml").read_text())
    content["id"] = "broken"
    _change(content, field, value)
    path = tmp_path / "broken.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=words) as caught:
        read_vehicle(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n", "\x00"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        read_vehicle(path)


def test_an_unknown_vehicle_lists_those_known() -> None:
    with pytest.raises(UnknownNameError, match=r"known: .*twin_truck"):
        load_vehicle("twin_trukc")


def test_an_unknown_time_zone_is_refused(tmp_path: Path) -> None:
    from tspace_core.config.base import parse
    from tspace_core.config.places import Site

    with pytest.raises(ConfigError, match="IANA"):
        parse(Site, {"id": "x", "name": "X", "timezone": "Mars/Base"}, tmp_path / "x.yaml")


@pytest.mark.parametrize("name", ["../vehicles/leaf_gen1", "./leaf_gen1", "sub/../leaf_gen1", "", "."])
def test_a_name_never_leaves_its_folder(name: str) -> None:
    with pytest.raises(UnknownNameError, match=r"known: .*leaf_gen1.*a file in it alone"):
        load_vehicle(name)
    with pytest.raises(UnknownNameError):
        load_driver("../drivers/tracker")


def test_a_share_of_the_rated_torque_is_cut_off_where_there_is_less() -> None:
    formula = MapFormula(
        torque_max_nm=340,
        power_max_kw=160,
        regen_torque_max_nm=0,
        regen_power_max_kw=1,
        shaft_rad_per_m=26.6,
        full_pedal="rated",
    )
    made = formula_map(formula, (0, 0.25, 0.5, 1), (0, 30, 60, 120))
    at_120 = 160e3 / (120 / 3.6 * 26.6)
    assert made.table[:3].tolist() == [[0, 85, 170, 340]] * 3
    assert made.table[3].tolist() == pytest.approx([0, 85, 170, at_120], abs=0.05)
    available = formula_map(
        formula.model_copy(update={"full_pedal": "available"}), (0, 0.5, 1), (0, 30, 60, 120)
    )
    assert available.table[3].tolist() == pytest.approx([0, at_120 / 2, at_120], abs=0.05)
