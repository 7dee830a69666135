import numpy as np

from weaksam.metrics.trivial import random_proposal_detections, whole_image_detections

SCORES = np.array([0.25, np.nan, 0.75], np.float32)
PROPOSALS = np.arange(400, dtype=np.float32).reshape(100, 4)


def test_the_whole_image_is_found_as_every_class_with_a_known_score():
    detections = whole_image_detections((30, 40), SCORES)
    assert detections.boxes_xyxy.tolist() == [[0, 0, 40, 30], [0, 0, 40, 30]]
    assert detections.class_index.tolist() == [0, 2]
    assert detections.score.tolist() == [0.25, 0.75]
    assert detections.image_scores is SCORES
    assert [column.dtype for column in (detections.boxes_xyxy, detections.class_index, detections.score)] == [
        np.float32, np.int64, np.float32,
    ]  # fmt: skip


def test_unknown_scores_and_no_classes_give_no_detections():
    for scores in (np.full(3, np.nan, np.float32), np.zeros(0, np.float32)):
        assert len(whole_image_detections((30, 40), scores)) == 0
        assert len(random_proposal_detections(PROPOSALS, scores, image_id="a")) == 0


def test_random_proposals_are_proposals_with_the_scores_of_the_image():
    detections = random_proposal_detections(PROPOSALS, SCORES, image_id="a")
    assert detections.class_index.tolist() == [0, 2]
    assert detections.score.tolist() == [0.25, 0.75]
    rows = detections.boxes_xyxy[:, 0] / 4
    np.testing.assert_array_equal(PROPOSALS[rows.astype(int)], detections.boxes_xyxy)


def test_the_draw_depends_on_image_and_seed_and_on_no_other_class():
    def drawn(scores=SCORES, **options):
        return random_proposal_detections(PROPOSALS, scores, **{"image_id": "a"} | options).boxes_xyxy.tolist()

    assert drawn() == drawn()
    assert drawn() != drawn(image_id="b")
    assert drawn() != drawn(seed=1)
    all_known = drawn(np.zeros(3, np.float32))
    assert [all_known[0], all_known[2]] == drawn()


def test_every_proposal_is_drawn_about_equally_often():
    scores = np.zeros(10, np.float32)
    drawn = np.concatenate(
        [random_proposal_detections(PROPOSALS[:4], scores, image_id=n).boxes_xyxy[:, 0] / 4 for n in range(200)]
    )
    counts = np.bincount(drawn.astype(int), minlength=4)
    assert (abs(counts - 500) < 100).all()  # of 2,000 draws; one standard deviation is 19


def test_an_image_without_proposals_has_no_detections():
    detections = random_proposal_detections(np.zeros((0, 4), np.float32), SCORES, image_id="a")
    assert detections.boxes_xyxy.shape == (0, 4)
    assert len(detections.class_index) == len(detections.score) == len(detections) == 0
