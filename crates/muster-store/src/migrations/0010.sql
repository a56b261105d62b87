-- A machine signs its results with its own key, so that whoever changes a row, or shows it elsewhere, is found out.
ALTER TABLE result_rows ADD COLUMN signature BYTEA;
