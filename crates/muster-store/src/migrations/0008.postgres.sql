-- What PostgreSQL writes in its own way, of the eighth schema.

SELECT setval(pg_get_serial_sequence('contacts', 'contact_id'),
    COALESCE((SELECT max(contact_id) FROM contacts), 0) + 1, false);
