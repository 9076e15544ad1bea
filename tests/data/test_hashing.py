from data.hashing import drawn, hash_of, seed_of


def test_the_order_of_keys_changes_no_hash():
    assert hash_of({"a": 1, "b": [2]}) == hash_of({"b": [2], "a": 1}) != hash_of({"a": 1, "b": [3]})


def test_draws_and_seeds_stay_the_same_numbers():
    # Other numbers would train and cache on other draws than an earlier release of the same recipe.
    assert [seed_of(value) for value in ("clip", [0, "on_policy", 3])] == [59926304421627, 237374538581038]
    assert [drawn(value) for value in ("clip", [0, "on_policy", 3])] == [0.21290100143867718, 0.843323770215811]


def test_draws_are_even():
    found = sorted(drawn(["row", number]) for number in range(2000))
    assert found[0] >= 0 and found[-1] < 1
    assert max(abs(value - at / 2000) for at, value in enumerate(found)) < 0.05
