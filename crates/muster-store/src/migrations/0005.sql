-- Not only refused contacts are kept, but also what an honest machine does not do.
ALTER TABLE refusals RENAME TO events;
