-- How fast the rows are read that a database had before it was attached.

ALTER TABLE pitr.lanes
    ADD COLUMN copy_rate double precision; -- rows a second; null while nothing is read
