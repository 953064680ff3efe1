from django.db import migrations, models

TENANT = "ALTER TABLE {0} ADD COLUMN tenant_id int NOT NULL DEFAULT current_setting('solo.tenant', true)::int"


class Migration(migrations.Migration):
    dependencies = [("blog", "0001_initial")]
    operations = [
        migrations.AddField("post", "stars", models.PositiveIntegerField(default=0)),
        migrations.AddConstraint("author", models.UniqueConstraint(fields=["tenant_id", "email"], name="author_email")),
        migrations.RunSQL(TENANT.format("blog_tag"), "ALTER TABLE blog_tag DROP COLUMN tenant_id"),
        migrations.RunSQL(TENANT.format("blog_post_tags"), "ALTER TABLE blog_post_tags DROP COLUMN tenant_id"),
        migrations.RunSQL("CREATE UNIQUE INDEX tag_name ON blog_tag (tenant_id, name)", "DROP INDEX tag_name"),
    ]
