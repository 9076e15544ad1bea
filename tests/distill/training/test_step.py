from distill.training.step import micro_batch_seed


def test_seeds_are_the_same_numbers_in_every_process():
    # Others would give another dropout, and other texts of the student, to a run that goes on.
    wanted = [3010437511937009226, 8222410553036578332, -1605038438026792806]
    assert [micro_batch_seed(*of) for of in ((0, 0, 0), (3, 17, 1), (0, 250, 5))] == wanted
