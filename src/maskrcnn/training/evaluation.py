"""The evaluation of a run: which of its weights are better, and what shows it."""

from __future__ import annotations

from dataclasses import replace

from maskrcnn.data.dataset import Dataset
from maskrcnn.evaluation.report import write_report
from maskrcnn.evaluation.run import Evaluation, evaluate
from maskrcnn.evaluation.thresholds import score_thresholds
from maskrcnn.predict.predictor import Predictor
from maskrcnn.training.judged import Judged
from maskrcnn.training.report import EVALUATION
from maskrcnn.training.saver import Saver
from maskrcnn.training.snapshots import draw_snapshots
from maskrcnn.training.validation import validation_loss


def evaluate_run(saver: Saver, validation: Dataset) -> list[Judged]:
    """Evaluate the network as it is now and, where there is one, the average of its weights; log the metrics.

    The average takes a second evaluation, as long as the first. A training for minutes evaluates at its end
    alone, after these minutes: it ends later by two evaluations instead of one.
    """
    state, trained = saver.state, saver.run.trained
    weights = [state.model.state_dict()] + ([state.average.weights] if state.average else [])
    judged, evaluations = [], []
    for candidate in weights:
        predictor = Predictor.from_checkpoint(replace(trained, weights=candidate), device=state.device)
        evaluation = evaluate(predictor, validation, max_detections=trained.max_detections)
        thresholds = score_thresholds(evaluation, trained.category_ids)
        judged.append(Judged(candidate, evaluation.metrics, thresholds))
        evaluations.append(evaluation)
    has_loss = saver.run.settings.logging.validation_loss
    saver.log.evaluation(state.step, judged, validation_loss(state, trained, validation) if has_loss else {})
    better = max(range(len(judged)), key=lambda number: judged[number].ap)
    _illustrate(saver, validation, evaluations[better], judged[better])
    return judged


def _illustrate(saver: Saver, validation: Dataset, evaluation: Evaluation, judged: Judged) -> None:
    """Keep drawings of a few pictures and, where the evaluation is the best so far, a report on it."""
    trained, step = saver.run.trained, saver.state.step
    paths = dict(zip(validation.image_ids.tolist(), validation.paths, strict=True))
    thresholds = dict(zip(trained.category_ids, judged.score_thresholds, strict=False))
    saver.log.pictures(draw_snapshots(evaluation, paths, thresholds), step)
    if judged.ap > saver.run.best_ap:
        write_report(
            saver.folder / EVALUATION,
            evaluation,
            image_paths=paths,
            capacity=trained.max_detections,
            title=f"Evaluation after step {step:,}",
        )
