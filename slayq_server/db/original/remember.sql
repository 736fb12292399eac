-- Keeps what ours take the place of.
insert into slayq.replaced_function (signature, definition) select * from unnest($1::text[], $2::text[])
on conflict (signature) do update set definition = excluded.definition, replaced_at = excluded.replaced_at
